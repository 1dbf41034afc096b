"""Reports that want out of their page."""

from __future__ import annotations

import re
from typing import Any

from trainer_svc.report.model import Report

TEXTS = (
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "'/><svg onload=alert(1)>",
    "</style></title></textarea><h1>owned</h1>",
    "]]><!-- <![CDATA[",
    "{{ 7 * 7 }}{% raw %}{# no #}",
    "&lt;b&gt; &amp;#60; &",
    "\u202eexe.txt \u2066\u202a",
    "NUL \x00, bell \x07, escape \x1b[31m, delete \x7f, \x85",
    "javascript:alert(1) https://evil.example/x.png",
    "| a | b |\n|---|---|\n# heading\n```\n[link](https://evil.example)",
    "שלום عليكم e\u0301\u0323 👩‍👩‍👧",
    "",
)
_KEPT = re.compile(r"[0-9a-f]{64}|\d{4}-\d\d-\d\dT.*")
"""Digests and times, which are checked where they are read."""
_CHOSEN = frozenset({"candidate", "against", "kind"})
"""Fields with one of a few values."""
_BY_CANDIDATE = frozenset({"scores", "answers"})


def with_text(report: Report, text: str) -> Report:
    """Return the report with `text` in each field that takes any, and as each metric's name."""
    found = report.model_dump(mode="json")
    found["judgement"]["candidates"] = [
        {**each, "metrics": dict(list(each["metrics"].items())[:1])}
        for each in found["judgement"]["candidates"]
    ]
    return Report.model_validate(_replaced(found, text))


def _replaced(value: Any, text: str, key: str = "") -> Any:
    if isinstance(value, dict):
        renamed = key == "metrics"
        return {
            text if renamed else name: _replaced(each, text, "" if key in _BY_CANDIDATE else name)
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [_replaced(each, text, key) for each in value]
    if isinstance(value, str) and key not in _CHOSEN and not _KEPT.fullmatch(value):
        return text
    return value
