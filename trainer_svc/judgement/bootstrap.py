"""How sure a figure is: percentile bootstrap intervals of it, and of the difference of two.

Records are drawn with replacement, the same ones for both of a pair (Koehn 2004,
aclanthology.org/W04-3250; Efron and Tibshirani 1993, chapter 13). A draw is told as how often it
holds each record, so that any figure which is made of counts is made again for every draw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from trainer_svc.judgement.model import Interval

FloatArray = NDArray[np.float64]

Statistic = Callable[[FloatArray], FloatArray]
"""From how often each draw holds each record, [draws, records], to the figure, [draws]."""

RESAMPLES = 2000
_TAILS = (0.025, 0.975)
_BLOCK_NUMBERS = 1_000_000
_DIGITS = 6


def intervals(
    statistics: Sequence[Statistic],
    records: int,
    *,
    seed: int,
    limits: tuple[float, float] = (0.0, 1.0),
) -> list[Interval]:
    """Return each figure with its 95% interval, all over the same draws.

    The figure always lies in its interval; where all draws agree, the interval is the figure. One
    record says nothing of the next: its interval is all of `limits`. So is that of no record, whose
    figure is 0.
    """
    if records < 1:
        return [Interval(value=0.0, low=limits[0], high=limits[1]) for _ in statistics]
    whole = np.ones((1, records))
    values = [float(statistic(whole)[0]) for statistic in statistics]
    if records == 1:
        return [Interval(value=_round(v), low=limits[0], high=limits[1]) for v in values]
    drawn: list[list[FloatArray]] = [[] for _ in statistics]
    for weights in _draws(records, seed):
        for figures, statistic in zip(drawn, statistics, strict=True):
            figures.append(statistic(weights))
    return [
        _interval(value, np.concatenate(figures))
        for value, figures in zip(values, drawn, strict=True)
    ]


def paired(first: Statistic, second: Statistic, records: int, *, seed: int) -> Interval:
    """Return the first figure less the second, -1 to 1, over the same records in every draw."""

    def difference(weights: FloatArray) -> FloatArray:
        return first(weights) - second(weights)

    return intervals([difference], records, seed=seed, limits=(-1.0, 1.0))[0]


def _draws(records: int, seed: int) -> Iterator[FloatArray]:
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK_NUMBERS // records)
    even = np.full(records, 1.0 / records)
    for start in range(0, RESAMPLES, block):
        count = min(block, RESAMPLES - start)
        yield generator.multinomial(records, even, size=count).astype(np.float64)


def _interval(value: float, figures: FloatArray) -> Interval:
    low, high = np.quantile(figures, _TAILS)
    return Interval(value=_round(value), low=_round(min(low, value)), high=_round(max(high, value)))


def _round(value: float) -> float:
    """Drop what sums of floats leave behind, so that equal is equal."""
    return round(float(value), _DIGITS) + 0.0
