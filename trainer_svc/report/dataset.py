"""A dataset's report as a page: what is wrong first, then what the records are like.

As `page.py` has it, the page is whole in itself and takes no text for more than text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tailorbird.errors import FailedPrecondition
from tailorbird.line_numbers import say_lines
from trainer_svc.datasets.dataset import Dataset
from trainer_svc.datasets.personal_data import PersonalDataReport
from trainer_svc.datasets.report.limits import DataLimits, findings, to_tell
from trainer_svc.datasets.report.model import DatasetReport, Lengths
from trainer_svc.report.environment import environment
from trainer_svc.report.words import counted

HTML = "text/html; charset=utf-8"
_PAIRS = 20
"""Of each list of lines, so that the page stays readable; the counts are of all."""


@dataclass(frozen=True)
class Bar:
    """One count of several, and how long its bar is: of the largest one's, 0 to 100."""

    name: str
    count: str
    share: str
    width: float


def dataset_page(dataset: Dataset) -> str:
    """Return the page; FailedPrecondition (REPORT_MISSING) for a dataset without a report."""
    report = dataset.report
    if report is None:
        raise FailedPrecondition(
            f"{dataset.name} was stored by a release that made no report; upload the data again "
            "under another name",
            reason="REPORT_MISSING",
            name=dataset.name,
        )
    return _PAGE.render(
        dataset=dataset,
        warnings=to_tell(findings(report), DataLimits()),
        tiles=_tiles(report),
        labels=bars((one.label, one.records) for one in report.labels),
        languages=bars((one.language, one.records) for one in report.languages.counts),
        scripts=bars((one.script, one.letters) for one in report.scripts),
        prompts=_lengths(report.prompts),
        answers=_lengths(report.answers),
        report=report,
        duplicates=[
            (f"{pair.line:,}", f"{pair.copy_of:,}") for pair in report.duplicates.pairs[:_PAIRS]
        ],
        near=[
            (f"{pair.line:,}", f"{pair.near_to:,}", f"{pair.similarity:.0%}")
            for pair in report.near_duplicates.pairs[:_PAIRS]
        ],
        contradictions=[
            (f"{one.answers:,}", ", ".join(map(str, one.lines)))
            for one in report.contradictions.examples[:_PAIRS]
        ],
        short=say_lines(report.short_answers.lines, report.short_answers.records),
        personal=_personal(dataset.personal_data),
        facts=_facts(dataset),
    )


def bars(counts: Iterable[tuple[str, int]]) -> list[Bar]:
    """Return a bar for each count, the longest as wide as there is room."""
    pairs = list(counts)
    total = sum(count for _, count in pairs)
    most = max((count for _, count in pairs), default=0)
    return [
        Bar(
            name, f"{count:,}", f"{count / max(total, 1):.1%}", round(100 * count / max(most, 1), 1)
        )
        for name, count in pairs
    ]


def _lengths(lengths: Lengths) -> list[Bar]:
    return bars(
        (
            f"{one.at_least:,} or more"
            if one.below is None
            else f"{one.at_least:,} to {one.below - 1:,}",
            one.records,
        )
        for one in lengths.bins
    )


def _tiles(report: DatasetReport) -> Sequence[tuple[str, str, str]]:
    """Return name, figure and what it is of."""
    compared = f"of {report.compared:,}"
    near = report.near_duplicates
    return (
        ("Records", f"{report.records:,}", ""),
        ("Duplicates", f"{report.duplicates.surplus:,}", compared),
        ("Near-duplicates", f"{near.found:,}", f"of {near.compared:,} looked at"),
        ("Contradictory", f"{report.contradictions.records:,}", compared),
    )


def _personal(found: PersonalDataReport | None) -> Sequence[tuple[str, str, str]]:
    """Return each kind, how often it was found, and the first lines."""
    if found is None:
        return ()
    return [
        (kind, f"{count:,}", ", ".join(map(str, found.lines.get(kind, ())[:_PAIRS])))
        for kind, count in found.counts.items()
    ]


def _facts(dataset: Dataset) -> dict[str, str]:
    found = {
        "Name": dataset.name,
        "Format": dataset.format.value,
        "Size": counted(dataset.size_bytes, "byte"),
        "SHA-256": dataset.sha256,
    }
    if dataset.ignored_fields:
        found["Keys that nothing reads"] = ", ".join(dataset.ignored_fields)
    return found


_PAGE = environment().get_template("dataset.html.j2")
