"""Token-budget packing: which records make up which step. Pure.

A plan is a function of record lengths, seed, budget and epochs alone, so a run's place in its data
is one number: the steps taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Integers: TypeAlias = NDArray[np.int64]


def shuffled(count: int, seed: int, epoch: int) -> Integers:
    """Return the order of `count` records in `epoch`, counted from 0; of these three alone.

    Sorts raw draws, whose stream numpy keeps from release to release (NEP 19), as it does not
    promise for `permutation`.
    """
    draws = np.random.PCG64([seed, epoch]).random_raw(count)
    return np.argsort(draws, kind="stable")


def cut(lengths: Integers, pieces: int) -> Integers:
    """Return where to cut records of these lengths into consecutive `pieces`, ends included.

    The pieces hold as equal a number of tokens as whole records allow; none is empty. Needs
    1 <= pieces <= len(lengths).
    """
    ends = np.cumsum(lengths)
    inner = np.arange(1, pieces)
    wanted = inner * (ends[-1] / pieces)
    after = np.searchsorted(ends, wanted)
    before = np.where(after > 0, ends[after - 1], 0)
    places = after + (wanted - before > ends[after] - wanted)
    places = np.maximum.accumulate(np.maximum(places - inner, 0)) + inner
    places = np.minimum(places, len(lengths) - pieces + inner)
    return np.concatenate(([0], places, [len(lengths)]))


class StepPlan:
    """Every step of a run: epoch after epoch, each in its own seeded order.

    An epoch has as many steps as its tokens fill, so that a step holds `batch_tokens` tokens or
    fewer in the mean, and each record once. Only the epoch asked for is laid out: a plan of a
    thousand epochs costs what a plan of one does.
    """

    def __init__(
        self, lengths: Sequence[int] | Integers, *, batch_tokens: int, seed: int, epochs: int
    ) -> None:
        self.lengths: Integers = np.asarray(lengths, dtype=np.int64)
        """The token count of each record."""
        self._seed = seed
        self._epochs = epochs
        filled = -(-int(self.lengths.sum()) // batch_tokens)
        self.steps_per_epoch = min(filled, len(self.lengths))
        self._laid_out = (-1, self.lengths, self.lengths)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.steps_per_epoch * self._epochs

    def records(self, step: int) -> list[int]:
        """Return the records of the step after `step` steps; 0 <= step < total_steps."""
        epoch, offset = divmod(step, self.steps_per_epoch)
        order, places = self._epoch(epoch)
        records: list[int] = order[places[offset] : places[offset + 1]].tolist()
        return records

    def epochs_passed(self, steps: int) -> float:
        """Return how many epochs `steps` steps are, with their fraction."""
        return steps / self.steps_per_epoch

    def _epoch(self, epoch: int) -> tuple[Integers, Integers]:
        """Return the epoch's order of records, and where its steps begin and end."""
        if self._laid_out[0] != epoch:
            order = shuffled(len(self.lengths), self._seed, epoch)
            self._laid_out = (epoch, order, cut(self.lengths[order], self.steps_per_epoch))
        return self._laid_out[1:]
