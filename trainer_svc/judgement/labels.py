"""Answers that are one of few classes: which, how often rightly, with how much confidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from trainer_svc.judgement.bootstrap import FloatArray, Statistic
from trainer_svc.judgement.tokens import normalised, words

NO_CLASS = -1
_BINS = 10


class Classes:
    """The classes that expected answers form, in a fixed order.

    An answer is of a class if both have the same words, whatever the case and punctuation
    ("Positive." is "positive"); where two classes differ in nothing else, only by the exact match.
    """

    def __init__(self, answers: Iterable[str]) -> None:
        self.names = tuple(sorted({normalised(answer) for answer in answers}))
        self._exactly = {name: index for index, name in enumerate(self.names)}
        keys = [" ".join(words(name)) for name in self.names]
        shared = Counter(keys)
        self._by_words = {key: index for index, key in enumerate(keys) if key and shared[key] == 1}

    def __len__(self) -> int:
        return len(self.names)

    def index(self, answer: str) -> int:
        """Return the answer's class, by its place in `names`; NO_CLASS if it is none."""
        exactly = self._exactly.get(normalised(answer))
        if exactly is not None:
            return exactly
        return self._by_words.get(" ".join(words(answer)), NO_CLASS)


def macro_f1(expected: NDArray[np.int64], answered: NDArray[np.int64]) -> Statistic:
    """Return the mean F1 of the classes that a draw's expected answers hold; both are [records].

    An answer that is no class, or one which no judged record expects, counts against the class
    that was expected.
    """
    classes = np.unique(expected)
    is_expected = (expected[:, None] == classes).astype(np.float64)
    is_answered = (answered[:, None] == classes).astype(np.float64)
    both = is_expected * is_answered

    def statistic(weights: FloatArray) -> FloatArray:
        support = weights @ is_expected
        f1 = 2.0 * (weights @ both) / np.maximum(support + weights @ is_answered, 1.0)
        held = support > 0
        mean: FloatArray = (f1 * held).sum(axis=1) / np.maximum(held.sum(axis=1), 1)
        return mean

    return statistic


def likelihood_figures(logprobs: FloatArray, expected: Sequence[int]) -> tuple[float, float] | None:
    """Return the accuracy of the likeliest label, and the expected calibration error.

    `logprobs` [records, labels] in nats, `expected` the labels' columns (NO_CLASS: wrong whatever
    is said). The confidence is the likelihood's share among the labels; the error is over ten bins
    of equal width (arXiv:1706.04599, equation 3). A row with a number that is not finite, but for a
    likelihood of 0, is wrong with even confidence. None: there is nothing to say it of.
    """
    if logprobs.size == 0:
        return None
    said = np.where(np.isnan(logprobs) | (logprobs == np.inf), np.nan, logprobs)
    broken = np.isnan(said).any(axis=1) | np.isneginf(said).all(axis=1)
    usable = np.where(broken[:, None], 0.0, said)
    shares = np.exp(usable - usable.max(axis=1, keepdims=True))
    confidence = (shares / shares.sum(axis=1, keepdims=True)).max(axis=1)
    right = (usable.argmax(axis=1) == np.asarray(expected)) & ~broken
    return float(right.mean()), _calibration_error(confidence, right)


def _calibration_error(confidence: FloatArray, right: NDArray[np.bool_]) -> float:
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(confidence))
