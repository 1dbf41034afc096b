"""report.html: one page that shows a report, to be mailed, printed or read on a phone.

It is whole in itself: no script, no picture, font or style from elsewhere, and a policy in its head
that forbids any. Whatever stands in the data is text: the templates escape all they are given.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from trainer_svc.judgement.model import AnswerKind, Candidate
from trainer_svc.report import curves, intervals, words
from trainer_svc.report.facts import (
    data_rows,
    headlines,
    hyperparameter_rows,
    lineage_rows,
    run_rows,
    verdict,
)
from trainer_svc.report.model import Report
from trainer_svc.report.printable import printable

_KINDS = {
    AnswerKind.LABELS: "labels",
    AnswerKind.JSON: "JSON",
    AnswerKind.SUMMARY: "summaries",
    AnswerKind.TEXT: "texts",
}


def report_page(report: Report) -> str:
    """Return the page; what the report does not have is not on it."""
    judgement = report.judgement
    return _ENVIRONMENT.get_template("page.html.j2").render(
        report=report,
        judgement=judgement,
        style=_STYLE,
        style_digest=_digest(_STYLE),
        verdict=verdict(report),
        headlines=headlines(report),
        charts=curves.run_charts(report),
        forests=[]
        if judgement is None
        else [
            intervals.metric_forest(judgement, name) for name in intervals.metric_names(judgement)
        ],
        differences=None if judgement is None else intervals.difference_forest(judgement),
        metrics=[] if judgement is None else intervals.metric_names(judgement),
        data=data_rows(report),
        run=run_rows(report),
        hyperparameters=hyperparameter_rows(report),
        lineage=lineage_rows(report),
        kinds=_KINDS,
        Candidate=Candidate,
    )


def _finished(value: object) -> object:
    return printable(value) if type(value) is str else value


def _digest(style: str) -> str:
    """Return the hash of the style element's text, as the page's policy names it."""
    return b64encode(hashlib.sha256(style.encode()).digest()).decode()


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(__package__, "templates"),
        autoescape=True,
        finalize=_finished,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(
        change=words.change,
        interval=intervals.with_interval,
        last_part=words.last_part,
        loss=words.loss,
        number=words.number,
        score=words.score,
        words=words.words,
    )
    environment.globals.update(
        candidate_label=intervals.candidate_label,
        counted=words.counted,
        candidate_name=words.candidate_name,
    )
    return environment


_STYLE = Markup(files(__package__).joinpath("templates/page.css").read_text("utf-8"))  # noqa: S704
_ENVIRONMENT = _environment()
