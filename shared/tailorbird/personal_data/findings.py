"""Where personal data stands in a text: never what it is."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class LabelledText:
    """A text of a record, and what it is called there where that says what it holds: a JSON key."""

    text: str = field(repr=False)
    label: str = ""


@dataclass(frozen=True)
class Finding:
    """`kind` stands at text[start:end], with a score from 0 to 1."""

    kind: str
    start: int
    end: int
    score: float


def without_overlaps(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings that share no character, in order: of those that do, the best scored.

    Of equal scores the longer one stays, then the one that begins first.
    """
    kept: list[Finding] = []
    for side_by_side in _clusters(sorted(findings, key=lambda finding: finding.start)):
        kept += _best(side_by_side)
    return kept


def _clusters(findings: Sequence[Finding]) -> Iterator[list[Finding]]:
    """Cut findings, by where they begin, where none reaches over: each with few to compare."""
    cluster: list[Finding] = []
    end = 0
    for finding in findings:
        if cluster and finding.start >= end:
            yield cluster
            cluster = []
        cluster.append(finding)
        end = max(end, finding.end)
    if cluster:
        yield cluster


def _best(findings: Iterable[Finding]) -> list[Finding]:
    kept: list[Finding] = []
    starts: list[int] = []
    for finding in sorted(findings, key=_rank):
        # What is kept shares no character, so that only the neighbours need a look.
        at = bisect_left(starts, finding.start)
        if at and kept[at - 1].end > finding.start:
            continue
        if at < len(kept) and kept[at].start < finding.end:
            continue
        kept.insert(at, finding)
        starts.insert(at, finding.start)
    return kept


def _rank(finding: Finding) -> tuple[float, int, int]:
    return -finding.score, finding.start - finding.end, finding.start
