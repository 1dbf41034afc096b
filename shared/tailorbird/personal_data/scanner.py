"""Finds personal data in a text: every detector's findings, without overlaps."""

from __future__ import annotations

from collections.abc import Iterator
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

_CUSTOM_SCORE = 0.95


class Detector(Protocol):
    """Finds values of one kind, or of a few."""

    @property
    def kind(self) -> str:
        """What it finds, for errors."""

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
        """Return what stands in `text`, in order and without overlaps.

        `label` is what the text is called where it stands, such as a JSON key: it counts as words
        before it. PatternTimedOut if a pattern takes too long, FailedPrecondition with SCAN_FAILED
        if a detector fails; neither says a word of the text.
        """
        head = f"{label.replace('_', ' ')}: " if label else ""
        plain = folded(head + text)
        found = []
        for finding in self._found(plain.text):
            start, end = plain.original(finding.start, finding.end)
            start, end = max(0, start - len(head)), end - len(head)
            if end > start:
                found.append(Finding(finding.kind, start, end, finding.score))
        return without_overlaps(found)

    def _found(self, text: str) -> Iterator[Finding]:
        for detector in self._detectors:
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
