"""What is looked for, as an operator asks for it: checked when it is made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import regex

from tailorbird.errors import InvalidArgument
from tailorbird.personal_data.kinds import BY_MODEL, KINDS, Kind
from tailorbird.personal_data.patterns import compiled

_KIND_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_MAX_PATTERNS, _MAX_PATTERN = 32, 1000


@dataclass(frozen=True)
class ScanOptions:
    """What is looked for; InvalidArgument names the field that is wrong, never a text."""

    kinds: tuple[str, ...] = ()
    """Kinds to look for beside those of `patterns`. Empty: all that `spacy_model` allows."""
    min_score: float = 0.4
    """What scores less is not reported; from 0 to 1. 0.4 is what a context word alone reaches."""
    patterns: Mapping[str, str] = field(default_factory=dict)
    """Regular expressions by kind, at most 32 of at most 1,000 characters, whatever their case.

    One of a kind of ours takes its place. With a group `value`, that is what is found.
    """
    spacy_model: str = ""
    """A spaCy pipeline's folder or package, for names and places. Empty: neither is looked for."""
    pattern_seconds: float = 1.0
    """Seconds that a pattern may search one text for."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_score <= 1:
            raise InvalidArgument("min_score", f"{self.min_score:g} is not from 0 to 1")
        if not self.pattern_seconds > 0:
            raise InvalidArgument("pattern_seconds", f"{self.pattern_seconds:g} is not above 0")
        for kind in self.kinds:
            self._check_kind(kind)
        if len(self.patterns) > _MAX_PATTERNS:
            raise InvalidArgument("patterns", f"{len(self.patterns)}; at most {_MAX_PATTERNS}")
        for kind, expression in self.patterns.items():
            _check_pattern(kind, expression)

    @property
    def wanted(self) -> frozenset[str]:
        """Every kind that is looked for."""
        ours = self.kinds or [kind for kind in Kind if self.spacy_model or kind not in BY_MODEL]
        return frozenset({*ours, *self.patterns})

    def _check_kind(self, kind: str) -> None:
        if kind not in KINDS:
            raise InvalidArgument("kinds", f"{kind[:80]!r} is not one of {', '.join(Kind)}")
        if kind in BY_MODEL and not self.spacy_model:
            raise InvalidArgument("kinds", f"{str(kind)!r} needs spacy_model")


def _check_pattern(kind: str, expression: str) -> None:
    if not _KIND_NAME.fullmatch(kind):
        raise InvalidArgument(
            "patterns", f"{kind[:80]!r} is not a kind: a-z, 0-9 and _, at most 40, a letter first"
        )
    if not 0 < len(expression) <= _MAX_PATTERN:
        raise InvalidArgument(
            "patterns", f"{kind}: {len(expression)} characters; 1 to {_MAX_PATTERN} are expected"
        )
    try:
        compiled(expression)
    except (regex.error, RecursionError, OverflowError) as error:
        at = getattr(error, "pos", None)
        where = "" if at is None else f" at position {at}"
        reason = getattr(error, "msg", "nested too deeply")
        raise InvalidArgument(
            "patterns", f"{kind}: not a regular expression: {reason}{where}"
        ) from error
