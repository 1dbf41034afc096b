"""The arithmetic: percentiles, gaps, ratios of pairs, draws. Pure functions."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Iterable, Sequence


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` (0 to 1) of all values do not exceed.

    ValueError without values.
    """
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def gaps(times: Sequence[float]) -> list[float]:
    """Return the distances between neighbours."""
    return [after - before for before, after in itertools.pairwise(times)]


def ratio(ours: float | None, theirs: float | None) -> float | None:
    """Return ours / theirs; None where one of them was not measured or theirs is zero."""
    if ours is None or not theirs:
        return None
    return ours / theirs


def median_ratio(pairs: Iterable[tuple[float | None, float | None]]) -> float | None:
    """Return the median of each pair's ratio; None without a pair, or if one has no ratio."""
    ratios = [ratio(ours, theirs) for ours, theirs in pairs]
    known = [one for one in ratios if one is not None]
    return statistics.median(known) if known and len(known) == len(ratios) else None


def median(values: Iterable[float | None]) -> float | None:
    """Return the median; None without values, or if one was not measured."""
    told = list(values)
    known = [value for value in told if value is not None]
    return statistics.median(known) if known and len(known) == len(told) else None


def zipf(count: int, among: int, seed: int, exponent: float = 1.0) -> list[int]:
    """Return `count` draws of 0 to among − 1; number k has a weight of 1 / (k + 1)^exponent."""
    weights = [1 / (rank + 1) ** exponent for rank in range(among)]
    return random.Random(seed).choices(range(among), weights, k=count)
