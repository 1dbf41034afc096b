"""The tokens of one step, by the slot whose adapter they take."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

NO_ADAPTER = -1


@dataclass(frozen=True, slots=True)
class Arrangement:
    """An order of the step's tokens in which those of one slot lie side by side."""

    ranges: dict[int, tuple[int, int]]
    """First and one past the last token, in that order, by slot."""
    order: torch.Tensor | None
    """Token at each place, (tokens,); None: they lie so already."""
    places: torch.Tensor | None
    """Place of each token, (tokens,): the inverse of `order`."""


class TokenGroups:
    """Made once a step, from the slot of each token, (tokens,) int64; -1 stands for none."""

    def __init__(self, slot_of_token: torch.Tensor) -> None:
        self._slot_of_token = slot_of_token.clone()
        self.tokens = slot_of_token.size(0)
        self.slots = tuple(sorted(set(slot_of_token.tolist()) - {NO_ADAPTER}))
        """Slots with tokens in this step."""
        self._masks: dict[tuple[int, ...], torch.Tensor] = {}

    def mask(self, slot_of_column: tuple[int, ...], bits: torch.dtype) -> torch.Tensor:
        """Return (tokens, 1, columns) of an integer type: all bits where both have one slot."""
        found = self._masks.get(slot_of_column)
        if found is None:
            columns = torch.tensor(slot_of_column)
            same = self._slot_of_token[:, None] == columns
            found = self._masks[slot_of_column] = same.to(bits).neg_().unsqueeze(1)
        return found

    @cached_property
    def arrangement(self) -> Arrangement:
        """How to lay the tokens; as they are, where that will do."""
        slots = self._slot_of_token.numpy()
        order = np.argsort(slots, kind="stable")
        starts = np.searchsorted(slots[order], self.slots, side="left")
        ends = np.searchsorted(slots[order], self.slots, side="right")
        firsts, lasts = order[starts], order[ends - 1]
        if np.array_equal(lasts - firsts, ends - 1 - starts):
            return Arrangement(_ranges(self.slots, firsts, lasts + 1), None, None)
        places = np.empty_like(order)
        places[order] = np.arange(self.tokens)
        ranges = _ranges(self.slots, starts, ends)
        return Arrangement(ranges, torch.from_numpy(order), torch.from_numpy(places))


def _ranges(
    slots: tuple[int, ...], starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
) -> dict[int, tuple[int, int]]:
    bounds = zip(starts.tolist(), ends.tolist(), strict=True)
    return dict(zip(slots, bounds, strict=True))
