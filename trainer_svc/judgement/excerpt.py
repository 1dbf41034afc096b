"""Cut texts, so that a judgement stays of a size to store and to send, whatever the data holds."""

from __future__ import annotations

import json

_CUT = "…"


def excerpt(text: str, size: int) -> str:
    """Return the text's start, with "…" where it is cut; at most `size` bytes as JSON writes it.

    What the text consists of decides: an "a" is one byte there, an emoji twelve.
    """
    if len(text) <= size and _written(text) <= size:
        return text
    low, high = 0, min(len(text), size)
    while low < high:
        middle = (low + high + 1) // 2
        if _written(text[:middle] + _CUT) <= size:
            low = middle
        else:
            high = middle - 1
    return text[:low] + _CUT


def _written(text: str) -> int:
    return len(json.dumps(text))
