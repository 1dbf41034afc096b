"""How near an answer is to the expected text: each metric a function of both, 0 to 1.

`score` grades any pair by a metric's name; so do the graders of `trainer_svc.judgement.graders`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TypeVar

from rapidfuzz.distance import LCSseq

from tailorbird.errors import InvalidArgument
from trainer_svc.judgement.tokens import normalised, words

T = TypeVar("T")


class Text:
    """A text that is compared more than once: what it is compared by is made once."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def normalised(self) -> str:
        """See `tokens.normalised`."""
        return normalised(self.text)

    @cached_property
    def words(self) -> list[str]:
        """See `tokens.words`."""
        return words(self.text)

    @staticmethod
    def of(text: str | Text) -> Text:
        """Return `text` itself if it is one already."""
        return text if isinstance(text, Text) else Text(text)


def exact_match(expected: str | Text, answer: str | Text) -> float:
    """Return 1 for the same text, after NFC and without outer white space."""
    return float(Text.of(expected).normalised == Text.of(answer).normalised)


def token_f1(expected: str | Text, answer: str | Text) -> float:
    """Return the F1 of the words that both have, each as often as it stands (arXiv:1606.05250).

    Unlike there, articles count, since only English has these. Where a text has no word at all (an
    emoji, an empty answer), the exact match decides.
    """
    expected, answer = Text.of(expected), Text.of(answer)
    return _overlap_f1(Counter(expected.words), Counter(answer.words), expected, answer)


def rouge_n(expected: str, answer: str, n: int) -> float:
    """Return ROUGE-N's F1: of the runs of `n` words (aclanthology.org/W04-1013).

    Where a text has no such run, the exact match decides.
    """
    first, second = Text(expected), Text(answer)
    return _overlap_f1(_grams(first.words, n), _grams(second.words, n), first, second)


def rouge_l(expected: str | Text, answer: str | Text) -> float:
    """Return ROUGE-L's F1: of the longest common subsequence of words (aclanthology.org/W04-1013).

    Where a text has no word at all, the exact match decides.
    """
    expected, answer = Text.of(expected), Text.of(answer)
    first, second = expected.words, answer.words
    if not first or not second:
        return exact_match(expected, answer)
    common: int = LCSseq.similarity(first, second)
    return 2.0 * common / (len(first) + len(second))


def phrases(answer: str | Text, required: Sequence[str], forbidden: Sequence[str]) -> float:
    """Return the share of the required phrases that are there and of the forbidden that are not.

    A phrase is there where its words stand next to each other, whatever the case and punctuation;
    one without a word (an emoji) where its characters do. ValueError: there are no phrases.
    """
    if not required and not forbidden:
        raise ValueError("no phrases")
    answer = Text.of(answer)
    said = " " + " ".join(answer.words) + " "
    text = answer.normalised
    kept = sum(_says(said, text, phrase) for phrase in required)
    kept += sum(not _says(said, text, phrase) for phrase in forbidden)
    return kept / (len(required) + len(forbidden))


TEXT_METRICS: Mapping[str, Callable[[str | Text, str | Text], float]] = {
    "exact_match": exact_match,
    "token_f1": token_f1,
    "rouge_l": rouge_l,
}


def score(metric: str, expected: str, answer: str) -> float:
    """Grade an answer by the name of a metric of two texts: exact_match, token_f1, rouge_l.

    InvalidArgument: there is no such metric.
    """
    if metric not in TEXT_METRICS:
        raise InvalidArgument("metric", f"{metric[:64]!r} is none of {', '.join(TEXT_METRICS)}")
    return TEXT_METRICS[metric](expected, answer)


def _grams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(tokens[start:] for start in range(n)), strict=False))


def _overlap_f1(first: Counter[T], second: Counter[T], expected: Text, answer: Text) -> float:
    if not first or not second:
        return exact_match(expected, answer)
    return 2.0 * (first & second).total() / (first.total() + second.total())


def _says(said: str, text: str, phrase: str) -> bool:
    wanted = " ".join(words(phrase))
    return f" {wanted} " in said if wanted else normalised(phrase) in text
