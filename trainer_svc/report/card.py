"""README.md of a version: a model card, with the sections of Hugging Face's template.

Its front matter is what PEFT writes. Whatever stands in the data is text there too: every character
that Markdown reads as more than itself is escaped.
"""

from __future__ import annotations

import json
import re

from jinja2 import Environment, PackageLoader, StrictUndefined

from trainer_svc.report import words
from trainer_svc.report.facts import data_rows, hyperparameter_rows, lineage_rows, run_rows, verdict
from trainer_svc.report.intervals import candidate_label, metric_names, with_interval
from trainer_svc.report.model import Report
from trainer_svc.report.printable import printable

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#|~$&!@=])")
_LINK = re.compile(r"(?<=:)(?=//)|(?<=www)(?=\.)")


class _Markdown(str):
    """Text that is Markdown already."""

    __slots__ = ()


def model_card(report: Report, peft_version: str) -> str:
    """Return the card; what the report does not have is not on it."""
    judgement = report.judgement
    return _ENVIRONMENT.get_template("card.md.j2").render(
        report=report,
        judgement=judgement,
        peft_version=peft_version,
        verdict=verdict(report),
        metrics=[] if judgement is None else metric_names(judgement),
        data=data_rows(report),
        run=run_rows(report),
        hyperparameters=hyperparameter_rows(report),
        lineage=lineage_rows(report),
    )


def escaped(text: str) -> str:
    """Return Markdown that reads as `text` in the middle of a line, and as nothing more."""
    line = " ".join(printable(text).split())
    return _LINK.sub(r"\\", _SPECIAL.sub(r"\\\1", line))


def _finished(value: object) -> object:
    return escaped(value) if isinstance(value, str) and type(value) is not _Markdown else value


def _quoted(text: str) -> _Markdown:
    """Write a text in quotes, as YAML and Python read it alike."""
    return _Markdown(json.dumps(printable(text), ensure_ascii=False))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(__package__, "templates"),
        autoescape=False,  # noqa: S701 - it is for HTML; `finalize` escapes
        finalize=_finished,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        auto_reload=False,
    )
    environment.filters.update(
        change=words.change,
        interval=with_interval,
        last_part=words.last_part,
        loss=words.loss,
        number=words.number,
        quoted=_quoted,
        score=words.score,
        words=words.words,
    )
    environment.globals.update(
        candidate_label=candidate_label,
        candidate_name=words.candidate_name,
        counted=words.counted,
    )
    return environment


_ENVIRONMENT = _environment()
