"""Finds personal data in a text: every detector's findings, without overlaps."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Protocol

import regex

from tailorbird.errors import FailedPrecondition, TailorbirdError
from tailorbird.personal_data.findings import Finding, without_overlaps
from tailorbird.personal_data.folding import folded
from tailorbird.personal_data.kinds import BY_MODEL
from tailorbird.personal_data.options import ScanOptions
from tailorbird.personal_data.own_patterns import (
    date_of_birth,
    international_phone,
    medical_record,
)
from tailorbird.personal_data.patterns import PatternDetector, compiled
from tailorbird.pieces import drained

_CUSTOM_SCORE = 0.95

_PIECE, _OVERLAP = 4096, 512
"""Characters that a detector reads at once, and how many of these it has read before: more than
any value of ours has, with the words beside it. What takes the square of a length, or a third of a
millisecond for each of its numbers, so does it for a piece alone."""

_BREAK = 256
"""A piece ends at white space, if there is some in its last characters."""

_MAX_LABEL = 128
"""Of a label, from its end: words of a context are no further away."""


class Detector(Protocol):
    """Finds values of one kind, or of a few."""

    @property
    def kind(self) -> str:
        """What it finds, for errors."""

    @property
    def whole(self) -> bool:
        """It reads a text as a whole, however long."""

    def find(self, text: str, seconds: float) -> Iterator[Finding]:
        """Yield what stands in `text`, in any order; an expression may take `seconds`."""


class Scanner:
    """Finds what `options` ask for. Building one imports Presidio, which takes about a second.

    InvalidArgument if the spaCy model cannot be loaded. It may be used by several threads.
    """

    def __init__(self, options: ScanOptions) -> None:
        self._options = options
        self._wanted = options.wanted
        self._detectors = tuple(_detectors(options))

    def find(self, text: str, label: str = "") -> list[Finding]:
        """Return what `search` does, without a pause."""
        return drained(self.search(text, label))

    def search(self, text: str, label: str = "") -> Generator[None, None, list[Finding]]:
        """Return what stands in `text`, in order and without overlaps; in pieces of a bounded time.

        `label` is what the text is called where it stands, such as a JSON key: it counts as words
        before it. PatternTimedOut if a pattern takes too long, FailedPrecondition with SCAN_FAILED
        if a detector fails; neither says a word of the text.
        """
        head = f"{label[-_MAX_LABEL:].replace('_', ' ')}: " if label else ""
        plain = folded(head + text)
        found = []
        for detector in self._detectors:
            for first, last in _pieces(plain.text, whole=detector.whole):
                for finding in self._found(detector, plain.text[first:last]):
                    start, end = plain.original(first + finding.start, first + finding.end)
                    start, end = max(0, start - len(head)), end - len(head)
                    if end > start:
                        found.append(Finding(finding.kind, start, end, finding.score))
                yield
        return without_overlaps(found)

    def _found(self, detector: Detector, text: str) -> Iterator[Finding]:
        try:
            for finding in detector.find(text, self._options.pattern_seconds):
                if finding.score >= self._options.min_score and finding.kind in self._wanted:
                    yield finding
        except TailorbirdError:
            raise
        except Exception as error:
            # Its text and its cause may hold what was read.
            raise FailedPrecondition(
                f"looking for {detector.kind} failed ({type(error).__name__})",
                reason="SCAN_FAILED",
                kind=detector.kind,
            ) from None


def _pieces(text: str, *, whole: bool) -> Iterator[tuple[int, int]]:
    """Cut a text; each piece begins before the end of the one before it."""
    start = 0
    while not whole and len(text) - start > _PIECE:
        end = start + _PIECE
        spaces = (at for at in range(end, end - _BREAK, -1) if text[at].isspace())
        end = next(spaces, end)
        yield start, end
        start = end - _OVERLAP
    yield start, len(text)


def _detectors(options: ScanOptions) -> Iterator[Detector]:
    if options.wanted & BY_MODEL:
        from tailorbird.personal_data.names import NamesDetector

        yield NamesDetector(options.spacy_model)
    # After the model: what it needs of torch is not hidden from it then.
    from tailorbird.personal_data.presidio import presidio_detectors

    ours = (date_of_birth(), medical_record(), international_phone())
    for detector in (*presidio_detectors(), *ours):
        if detector.kind in options.wanted and detector.kind not in options.patterns:
            yield detector
    for kind, expression in options.patterns.items():
        pattern = compiled(expression, regex.IGNORECASE)
        yield PatternDetector(kind, ((pattern, _CUSTOM_SCORE),), bounded=False)
