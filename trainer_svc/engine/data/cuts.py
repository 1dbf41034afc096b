"""Where a text may be cut so that its parts have the ids of the whole."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any


class Cuts:
    """The places in `text`, whose ids are `ids`, where a token begins that ends what is before it.

    A fast tokenizer takes out its added tokens before all else, from the left and the longest
    first, and tokenises what lies between them piece by piece. A text that begins at one of them
    has the ids that it has in the whole. There is none without a fast tokenizer.
    """

    def __init__(self, backend: Any, text: str, ids: Sequence[int]) -> None:
        self._text = text
        self._places = [(0, 0)]
        self._longest = 0
        if backend is None or backend.encode_special_tokens:
            return
        encoding = backend.encode(text, add_special_tokens=False)
        if encoding.ids != list(ids):
            return
        added = backend.get_added_tokens_decoder()
        self._longest = max((len(token.content) for token in added.values()), default=0)
        apart = {
            number: token.content
            for number, token in added.items()
            if not (token.normalized or token.single_word or token.lstrip)
        }
        self._places += [
            (start, index)
            for index, (number, (start, _)) in enumerate(
                zip(encoding.ids, encoding.offsets, strict=True)
            )
            if number in apart and text.startswith(apart[number], start)
        ]

    def last(self, prompt: str) -> tuple[int, int]:
        """Return the characters and the ids before the last cut that `prompt` shares with the text.

        Both are 0 if the text does not go on where `prompt` ends. What follows `prompt` cannot move
        the cut: no added token that begins before it reaches the end.
        """
        if not self._text.startswith(prompt):
            return 0, 0
        place = bisect_right(self._places, len(prompt) - self._longest, key=lambda cut: cut[0])
        return self._places[max(place, 1) - 1]
