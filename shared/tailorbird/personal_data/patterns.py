"""Regular expressions that find one kind: bounded in time, checked by rule and by context."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import regex

from tailorbird.errors import PatternTimedOut
from tailorbird.personal_data.context import ContextWords
from tailorbird.personal_data.findings import Finding

# The slowest expressions of ours take a tenth of that on an idle core.
_CHARACTERS_A_SECOND = 20_000

Verdict = Callable[[str], bool | None]
Window = tuple[int, int]


def whole_match(match: Any) -> Iterable[Window]:
    """Return the one span that a match stands for: its group `value` if it has that."""
    return (match.span("value" if "value" in match.re.groupindex else 0),)


def whole_text(text: str) -> Iterable[Window]:
    """Return the one window that is the whole of `text`."""
    return ((0, len(text)),)


def near(expression: Any, before: int, behind: int) -> Callable[[str], Iterator[Window]]:
    """Return windows about each match of `expression`, a cheap one: the others search these alone.

    A pattern that is quadratic in a text's length is not in a window's. Windows that touch are one.
    """

    def windows(text: str) -> Iterator[Window]:
        start = end = -1
        for match in expression.finditer(text, concurrent=True):
            if end < 0:
                start = max(0, match.start() - before)
            elif match.start() - before > end:
                yield start, end
                start = match.start() - before
            end = min(len(text), match.end() + behind)
        if end >= 0:
            yield start, end

    return windows


def unchecked(_: str) -> None:
    """Say neither yes nor no of a value: the pattern's score decides."""


@dataclass(frozen=True)
class PatternDetector:
    """Finds `kind` by expressions, each with the score of a match that nothing else speaks for.

    `verdict` of a match is True (a checksum is right: score 1), False (it is none) or None. With
    `needs_context` a match without one of the context's words beside it is none either.
    """

    kind: str
    expressions: tuple[tuple[Any, float], ...]
    context: ContextWords | None = None
    needs_context: bool = False
    verdict: Verdict = unchecked
    spans: Callable[[Any], Iterable[Window]] = whole_match
    bounded: bool = True
    """The time of a search is bounded by the text's length: the longer it is, the more it may take.

    Not that of an operator's expression, which has no more time for a long text than for a short.
    """
    windows: Callable[[str], Iterable[Window]] = whole_text

    @property
    def whole(self) -> bool:
        """An operator's expression may find what is as long as the text."""
        return not self.bounded

    def find(self, text: str, seconds: float) -> Iterator[Finding]:
        """Yield what stands in `text`; PatternTimedOut after `seconds` of one expression."""
        if self.bounded:
            seconds *= 1 + len(text) / _CHARACTERS_A_SECOND
        for expression, score in self.expressions:
            for start, end in self.windows(text):
                try:
                    # Other threads run meanwhile.
                    matches = expression.finditer(
                        text, start, end, timeout=seconds, concurrent=True
                    )
                    for match in matches:
                        yield from self._judged(text, match, score)
                except TimeoutError:
                    raise PatternTimedOut(self.kind, seconds) from None

    def _judged(self, text: str, match: Any, score: float) -> Iterator[Finding]:
        for start, end in self.spans(match):
            if start >= end:
                continue
            verdict = self.verdict(text[start:end])
            if verdict is False:
                continue
            beside = self.context is not None and self.context.beside(text, start, end)
            if self.needs_context and not beside:
                return
            reached = 1.0 if verdict else ContextWords.raised(score) if beside else score
            yield Finding(self.kind, start, end, reached)
            return


def compiled(expression: str, flags: int = 0) -> Any:
    """Return the compiled `expression`; regex.error says what is wrong with it, and where."""
    return regex.compile(expression, flags)
