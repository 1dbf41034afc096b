"""Token-budget packing: which records make up which step. Pure.

A plan is a function of record lengths, seed and budget alone, so a run's place in its data is one
number: the steps taken.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate


def pack(lengths: Sequence[int], order: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Cut `order` into consecutive groups of at most `batch_tokens` tokens each.

    `lengths[i]` is the token count of record i. A record longer than the budget is a group of its
    own. Nothing is reordered or left out.
    """
    groups: list[list[int]] = []
    room = 0
    for record in order:
        if not groups or lengths[record] > room:
            groups.append([])
            room = batch_tokens
        groups[-1].append(record)
        room -= lengths[record]
    return groups


def shuffled(count: int, seed: int, epoch: int) -> list[int]:
    """Return the order of `count` records in `epoch`, counted from 0; of these three alone."""
    order = list(range(count))
    random.Random(f"{seed}:{epoch}").shuffle(order)  # noqa: S311
    return order


class StepPlan:
    """Every step of a run: epoch after epoch, each in its own seeded order."""

    def __init__(
        self, lengths: Sequence[int], *, batch_tokens: int, seed: int, epochs: int
    ) -> None:
        self._lengths = lengths
        self._batch_tokens = batch_tokens
        self._seed = seed
        self._current = (-1, [[0]])
        self._ends = list(accumulate(len(self._epoch(epoch)) for epoch in range(epochs)))

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self._ends[-1]

    def records(self, step: int) -> list[int]:
        """Return the records of the step after `step` steps; 0 <= step < total_steps."""
        epoch, offset = self._locate(step)
        return self._epoch(epoch)[offset]

    def epochs_passed(self, steps: int) -> float:
        """Return how many epochs `steps` steps are, with their fraction."""
        if steps >= self.total_steps:
            return float(len(self._ends))
        epoch, offset = self._locate(steps)
        return epoch + offset / len(self._epoch(epoch))

    def _locate(self, step: int) -> tuple[int, int]:
        epoch = bisect_right(self._ends, step)
        return epoch, step - (self._ends[epoch - 1] if epoch else 0)

    def _epoch(self, epoch: int) -> list[list[int]]:
        if self._current[0] != epoch:
            order = shuffled(len(self._lengths), self._seed, epoch)
            self._current = (epoch, pack(self._lengths, order, self._batch_tokens))
        return self._current[1]
