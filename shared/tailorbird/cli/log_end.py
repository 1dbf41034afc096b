"""What the end of a service's log says, for people: why it ended, or its last records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

_ALREADY_SAID = {"event", "level", "logger", "timestamp", "exception", "setting", "values_key"}


def told_reasons(lines: Sequence[str]) -> list[str]:
    """Return what kept it from running, one sentence for each thing, as it logged them."""
    records = [_record(line) for line in lines]
    return [
        str(one["error"])
        for one in records
        if one.get("level") == "critical" and "error" in one and "exception" not in one
    ]


def readable(lines: Sequence[str]) -> list[str]:
    """Return the lines with what was JSON as text, without the record of all settings."""
    shown = []
    for line in lines:
        record = _record(line)
        if not record:
            shown += [line] if line.strip() else []
        elif record.get("event") != "settings":
            shown += _told(record)
    return shown


def _told(record: dict[str, Any]) -> list[str]:
    rest = [f"{key}={_text(value)}" for key, value in record.items() if key not in _ALREADY_SAID]
    line = " ".join([f"{record.get('level', '')}:", str(record["event"]), *rest])
    return [line, *str(record.get("exception", "")).splitlines()]


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _record(line: str) -> dict[str, Any]:
    if not line.startswith("{"):
        return {}
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) and "event" in record else {}
