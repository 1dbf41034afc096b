"""A text as detectors read it: digits and signs in their plain form, invisible characters gone."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class Folded:
    """`text` and where each of its characters stands in the original."""

    text: str
    offsets: tuple[int, ...] | None
    """None: character for character as the original."""

    def original(self, start: int, end: int) -> tuple[int, int]:
        """Return the original's span of text[start:end], which must not be empty."""
        if self.offsets is None:
            return start, end
        return self.offsets[start], self.offsets[end - 1] + 1


def folded(text: str) -> Folded:
    """Return the plain form of `text`.

    Format characters (zero-width, bidirectional marks, soft hyphens: Unicode category Cf) are left
    out; decimal digits of every script become ASCII's; dashes become "-" and spaces " "; whatever
    compatibility form has a single plain character (full-width letters) becomes that.
    """
    if text.isascii():
        return Folded(text, None)
    plain = [_plain(character) for character in text]
    kept = "".join(plain)
    if len(kept) == len(text):
        return Folded(kept, None)
    return Folded(kept, tuple(index for index, each in enumerate(plain) if each))


@lru_cache(4096)
def _plain(character: str) -> str:
    if character.isascii():
        return character
    category = unicodedata.category(character)
    if category == "Cf":
        return ""
    if category == "Nd":
        return str(unicodedata.decimal(character))
    if category == "Pd" or character == "\N{MINUS SIGN}":
        return "-"
    if category == "Zs":
        return " "
    compatible = unicodedata.normalize("NFKC", character)
    return compatible if len(compatible) == 1 else character
