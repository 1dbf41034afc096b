"""What a PromQL expression reads: as much of its grammar as rules, dashboards and scaling use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*\{([^}]*)\}")
_MATCHER = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")
_RANGE = re.compile(r"\[[^\]]*\]|\boffset\s+\w+")
_WORD = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_GRAMMAR = {
    *"sum avg max min count topk by without on ignoring and or unless absent".split(),
    *"rate increase histogram_quantile offset".split(),
}


@dataclass(frozen=True)
class Selector:
    """A metric, and what its labels must be: (label, operator, value)."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...]


def selectors(expression: str) -> list[Selector]:
    """Return every selector.

    Raises:
        AssertionError: a word is neither a selector's nor known: a metric without braces, say.
    """
    found = [
        Selector(match[1], tuple(_MATCHER.findall(match[2])))
        for match in _SELECTOR.finditer(expression)
    ]
    rest = _RANGE.sub("", _GROUPING.sub("", _SELECTOR.sub("", expression)))
    words = set(_WORD.findall(_STRING.sub("", rest))) - _GRAMMAR
    assert not words, f"{sorted(words)} in {expression}: not understood"
    assert found, f"{expression} selects nothing"
    return found


def grouping(expression: str) -> Iterator[str]:
    """Yield the labels that are grouped by."""
    for match in _GROUPING.finditer(expression):
        yield from (label.strip() for label in match[1].split(","))
