"""Words beside a value that say what it is."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Presidio reads five words before a value. So does this, about; and a few behind it.
_BEFORE, _BEHIND = 48, 24

_BOOST, _LEAST = 0.35, 0.4


class ContextWords:
    """Raises the score of what stands beside one of `words` as Presidio's enhancer does.

    By 0.35, to at least 0.4 and at most 1. Words are found whole, whatever their case; they may
    consist of several.
    """

    def __init__(self, words: Iterable[str]) -> None:
        several = "|".join(re.escape(word.strip()) for word in sorted(words, key=len, reverse=True))
        # "_" ends a word too: keys such as customer_phone.
        self._words = re.compile(rf"(?<![^\W_])(?:{several})(?![^\W_])", re.IGNORECASE)

    def beside(self, text: str, start: int, end: int) -> bool:
        """Tell whether one of the words stands beside text[start:end]."""
        before = text[max(0, start - _BEFORE) : start]
        return bool(self._words.search(before) or self._words.search(text[end : end + _BEHIND]))

    @staticmethod
    def raised(score: float) -> float:
        """Return the score of a value that has one of the words beside it."""
        return min(1.0, max(_LEAST, score + _BOOST))
