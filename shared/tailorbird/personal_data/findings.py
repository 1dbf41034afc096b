"""Where personal data stands in a text: never what it is."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
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
