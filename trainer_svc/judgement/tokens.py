"""How a text is cut into the tokens that are counted, whatever its language."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

import regex

from trainer_svc.datasets.content import LONGEST_RUN, marks_in_a_row

MAX_TOKENS = 4096
"""Of a text, from its start: comparing two sequences costs the product of their lengths."""

MAX_PIECES = 1024
"""The same for BLEU, whose runs of words cost more to count."""

MAX_CHARACTERS = 40_000
"""Of a text in NFC, from its start, that are read for tokens."""

_MOST_READ = 4 * MAX_CHARACTERS
"""Of a text as it comes: NFC makes it shorter."""

Form = Literal["NFC", "NFKC"]

# Scripts whose words are not set apart by spaces: each character stands for itself.
_UNSPACED = (
    r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
)
# With the marks that `\w` of `re` leaves out, without which Hindi falls into pieces.
_SPACED_CHARACTER = rf"[[\p{{L}}\p{{M}}\p{{N}}_]--[{_UNSPACED}]]"
WORD_START = rf"(?<!{_SPACED_CHARACTER})"
WORD_END = rf"(?!{_SPACED_CHARACTER})"
"""With WORD_START: not within a longer word; patterns of `regex`, version 1."""

_WORD = rf"[{_UNSPACED}]\p{{M}}*|{_SPACED_CHARACTER}+"
_ASCII_WORDS = re.compile(r"\w+", flags=re.ASCII)
_WORDS = regex.compile(_WORD, flags=regex.VERSION1)
_PIECES = regex.compile(rf"{_WORD}|[^\s]", flags=regex.VERSION1)


def composed(text: str, form: Form = "NFC") -> str:
    """Return the text in a normal form of Unicode; of more than 30 combining marks in a row, 30.

    No language has as many, and Python sorts a run in the square of its length.
    """
    if text.isascii():
        return text
    return unicodedata.normalize(form, marks_in_a_row(text).sub(_first_marks, text))


def _first_marks(run: re.Match[str]) -> str:
    return run[0][:LONGEST_RUN]


def normalised(text: str) -> str:
    """Return the text in NFC, without outer white space: equal to people is equal to us."""
    return composed(text).strip()


def words(text: str) -> list[str]:
    """Return the case-folded words; punctuation is none. At most MAX_TOKENS, from the start."""
    head = normalised(text.lstrip()[:_MOST_READ])[:MAX_CHARACTERS]
    folded = composed(head.casefold())
    # The same in ASCII, where half the time of a judgement would go by without it.
    found: list[str] = (_ASCII_WORDS if folded.isascii() else _WORDS).findall(folded)
    return found[:MAX_TOKENS]


def pieces(text: str) -> list[str]:
    """Return words and every other visible character, case kept, as BLEU counts them.

    At most MAX_PIECES, from the start.
    """
    head = normalised(text.lstrip()[:_MOST_READ])[:MAX_CHARACTERS]
    found: list[str] = _PIECES.findall(head)
    return found[:MAX_PIECES]
