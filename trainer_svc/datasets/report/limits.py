"""What of a dataset's report is told, and what a job refuses. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from trainer_svc.datasets.leakage import Leakage
from trainer_svc.datasets.report.model import DatasetReport, LinePair
from trainer_svc.record import Record

_SHOWN = 5


class DataLimits(Record):
    """The most that a job takes of each fault, a fraction in [0, 1]; None: it is warned of only."""

    max_leakage: float | None = None
    max_exact_duplicates: float | None = None
    max_near_duplicates: float | None = None
    max_contradictions: float | None = None
    max_label_share: float | None = None

    @property
    def any_set(self) -> bool:
        """Whether the job refuses anything."""
        return self != DataLimits()


class Finding(NamedTuple):
    """One figure of a report: `share`, told where it is above `told_above`.

    `limit` is the field of DataLimits that it is held against, or "".
    """

    reason: str
    message: str
    share: float
    told_above: float
    limit: str = ""

    @property
    def told(self) -> bool:
        """Whether it is worth a warning."""
        return self.share > self.told_above


def findings(report: DatasetReport) -> tuple[Finding, ...]:
    """Return every figure of a report that a dataset may be warned for."""
    return (
        Finding(
            "DUPLICATE_RECORDS",
            f"{_of(report.duplicates.surplus, report.compared)} repeat the question and answer of "
            f"an earlier one: {_pairs(report.duplicates.pairs, 'is')}",
            report.duplicate_share,
            0.01,
            "max_exact_duplicates",
        ),
        Finding(
            "NEAR_DUPLICATE_RECORDS",
            f"{_of(report.near_duplicates.found, report.near_duplicates.compared)} are almost as "
            f"an earlier one: {_near(report)}",
            report.near_duplicate_share,
            0.01,
            "max_near_duplicates",
        ),
        Finding(
            "CONTRADICTORY_ANSWERS",
            f"{_of(report.contradictions.records, report.compared)} ask one of "
            f"{report.contradictions.questions:,} questions that have different answers: "
            + "; ".join(_lines(one.lines) for one in report.contradictions.examples[:_SHOWN]),
            report.contradiction_share,
            0.0,
            "max_contradictions",
        ),
        Finding(
            "SHORT_ANSWERS",
            f"{_of(report.short_answers.records, report.records)} have an answer of at most 2 "
            f"characters, where half of all have {report.answers.median:,} or more: "
            + _lines(report.short_answers.lines),
            report.short_answers.records / max(report.records, 1),
            0.0,
        ),
        Finding(
            "LABEL_IMBALANCE",
            f"{_largest(len(report.labels))} of answers has "
            f"{_of(report.labels[0].records if report.labels else 0, report.records)}",
            report.label_share,
            0.9,
            "max_label_share",
        ),
    )


def leak(leakage: Leakage) -> Finding:
    """Return the figure of what a validation dataset shares with the training data."""
    return Finding(
        "VALIDATION_LEAKAGE",
        f"{_of(leakage.leaked, leakage.compared)} of the validation data ask what the training "
        f"data asks, {leakage.copies:,} of them with the same answer: validation shows nothing of "
        f"these, and no version is judged on them: {_pairs(leakage.pairs, 'is training line')}",
        leakage.share,
        0.0,
        "max_leakage",
    )


def inherited_leak(leakage: Leakage, version: str, dataset: str) -> Finding:
    """Return the figure of what a validation dataset shares with data that a version has seen."""
    return Finding(
        "VALIDATION_LEAKAGE",
        f"{_of(leakage.leaked, leakage.compared)} of the validation data ask what {version}, which "
        f"training begins with, has seen of {dataset}: validation shows nothing of these, and no "
        f"version is judged on them: {_pairs(leakage.pairs, 'is line')} there",
        leakage.share,
        0.0,
        "max_leakage",
    )


def exceeded(found: Iterable[Finding], limits: DataLimits) -> list[tuple[Finding, float]]:
    """Return what is above its limit, with that."""
    held = ((one, getattr(limits, one.limit) if one.limit else None) for one in found)
    return [(one, limit) for one, limit in held if limit is not None and one.share > limit]


def to_tell(found: Iterable[Finding], limits: DataLimits) -> list[Finding]:
    """Return what is worth a warning: above its default, and no limit says how much is right."""
    return [
        one
        for one in found
        if one.told and not (one.limit and getattr(limits, one.limit) is not None)
    ]


def _largest(classes: int) -> str:
    return "the only class" if classes == 1 else f"the largest of {classes} classes"


def _of(count: int, total: int) -> str:
    return f"{count:,} of {total:,} records ({count / max(total, 1):.1%})"


def _lines(lines: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, lines[:_SHOWN]))
    return f"line{'s' * (len(lines) > 1)} {shown}{', …' if len(lines) > _SHOWN else ''}"


def _pairs(pairs: tuple[LinePair, ...], word: str) -> str:
    shown = ", ".join(f"line {pair.line} {word} {pair.copy_of}" for pair in pairs[:_SHOWN])
    return shown + (", …" if len(pairs) > _SHOWN else "")


def _near(report: DatasetReport) -> str:
    pairs = report.near_duplicates.pairs
    shown = ", ".join(
        f"line {pair.line} is {pair.similarity:.0%} like {pair.near_to}" for pair in pairs[:_SHOWN]
    )
    return shown + (", …" if len(pairs) > _SHOWN else "")
