"""Whether processes that are killed and started again and again grow. Pure."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_AGE_SECONDS = 5.0
_GROWN_UP_SECONDS = 20.0
_LIFE_SECONDS = 40.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a trainer's service process."""

    at: float
    """Seconds since the run began."""
    life: str
    """Which process it was."""
    age: float
    """Seconds since that process was ready."""
    memory_kib: int
    """Resident, but for files."""
    descriptors: int


def growth(samples: Sequence[Sample], value: Callable[[Sample], float]) -> float | None:
    """Return by how much more the second half of the run has than the first, as a share.

    Only processes of one age are compared, in steps of five seconds: the ratio of the medians of
    each age that both halves have, weighted by how often the rarer half has it. None without any.
    """
    if not samples:
        return None
    middle = (min(each.at for each in samples) + max(each.at for each in samples)) / 2
    halves: tuple[defaultdict[int, list[float]], ...] = (defaultdict(list), defaultdict(list))
    for each in samples:
        halves[each.at > middle][int(each.age / _AGE_SECONDS)].append(value(each))
    first, second = halves
    total = weights = 0.0
    for age in first.keys() & second.keys():
        weight = min(len(first[age]), len(second[age]))
        total += weight * statistics.median(second[age]) / statistics.median(first[age])
        weights += weight
    return total / weights - 1 if weights else None


def per_minute(samples: Sequence[Sample], value: Callable[[Sample], float]) -> float | None:
    """Return how much a process gains in a minute once it is 20 s old: the median of their lives.

    Of lives of at least 40 s from then on; None without any.
    """
    lives: defaultdict[str, list[Sample]] = defaultdict(list)
    for each in samples:
        if each.age >= _GROWN_UP_SECONDS:
            lives[each.life].append(each)
    slopes = [
        statistics.linear_regression([one.age for one in life], [value(one) for one in life]).slope
        for life in lives.values()
        if life[-1].age - life[0].age >= _LIFE_SECONDS
    ]
    return statistics.median(slopes) * 60 if slopes else None
