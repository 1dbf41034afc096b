"""report.html: one page that shows a report, to be mailed, printed or read on a phone.

It is whole in itself: no script, no picture, font or style from elsewhere, and a policy in its head
that forbids any. Whatever stands in the data is text: the templates escape all they are given.
"""

from __future__ import annotations

from jinja2 import Environment

from trainer_svc.judgement.model import AnswerKind, Candidate
from trainer_svc.report import curves, intervals, words
from trainer_svc.report.environment import environment
from trainer_svc.report.facts import (
    data_rows,
    headlines,
    hyperparameter_rows,
    lineage_rows,
    run_rows,
    verdict,
)
from trainer_svc.report.model import Report

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


def _environment() -> Environment:
    made = environment()
    made.filters.update(interval=intervals.with_interval)
    made.globals.update(
        candidate_label=intervals.candidate_label, candidate_name=words.candidate_name
    )
    return made


_ENVIRONMENT = _environment()
