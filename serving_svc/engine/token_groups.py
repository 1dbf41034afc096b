"""The tokens of one step, by the slot whose adapter they take."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from serving_svc.engine.sizes import few_sizes

NO_ADAPTER = -1


@dataclass(frozen=True, slots=True)
class Arrangement:
    """An order of the step's tokens in which those of one slot lie side by side.

    A slot has as many places as its size (sizes.py); the last ones repeat its first token.
    """

    ranges: dict[int, tuple[int, int]]
    """First and one past the last place, in that order, by slot."""
    order: torch.Tensor | None
    """Token at each place, (places,); None: they lie so already."""
    places: torch.Tensor | None
    """A place of each token, (tokens,)."""


class TokenGroups:
    """Made once a step, from the slot of each token, (tokens,) int64; -1 stands for none."""

    def __init__(self, slot_of_token: torch.Tensor) -> None:
        self._slot_of_token = slot_of_token.clone()
        self.tokens = slot_of_token.size(0)
        self.slots = tuple(sorted(set(slot_of_token.tolist()) - {NO_ADAPTER}))
        """Slots with tokens in this step."""
        self._masks: dict[tuple[int, tuple[int, ...]], torch.Tensor] = {}

    def mask(self, rows: int, slot_of_column: tuple[int, ...], bits: torch.dtype) -> torch.Tensor:
        """Return (rows, 1, columns) of an integer type: all bits where both have one slot.

        Rows past the tokens have none.
        """
        found = self._masks.get((rows, slot_of_column))
        if found is None:
            same = self._slot_of_token[:, None] == torch.tensor(slot_of_column)
            padded = functional.pad(same.to(bits).neg_(), (0, 0, 0, rows - self.tokens))
            found = self._masks[rows, slot_of_column] = padded.unsqueeze(1)
        return found

    @cached_property
    def arrangement(self) -> Arrangement:
        """How to lay the tokens; as they are, where that will do."""
        slots = self._slot_of_token.numpy()
        sorted_tokens = np.argsort(slots, kind="stable")
        starts = np.searchsorted(slots[sorted_tokens], self.slots, side="left")
        ends = np.searchsorted(slots[sorted_tokens], self.slots, side="right")
        members = [sorted_tokens[a:b] for a, b in zip(starts, ends, strict=True)]
        if all(_lie_ready(tokens) for tokens in members):
            ready = [(int(tokens[0]), int(tokens[-1]) + 1) for tokens in members]
            return Arrangement(dict(zip(self.slots, ready, strict=True)), None, None)
        parts, ranges, begin = [], {}, 0
        places = np.empty(self.tokens, np.int64)
        for slot, tokens in zip(self.slots, members, strict=True):
            size = few_sizes(len(tokens))
            parts += [tokens, np.repeat(tokens[:1], size - len(tokens))]
            places[tokens] = np.arange(begin, begin + len(tokens))
            ranges[slot] = begin, begin + size
            begin += size
        others = sorted_tokens[: starts[0]]
        places[others] = np.arange(begin, begin + len(others))
        order = np.concatenate([*parts, others])
        return Arrangement(ranges, torch.from_numpy(order), torch.from_numpy(places))


def _lie_ready(tokens: npt.NDArray[np.int64]) -> bool:
    count = len(tokens)
    return int(tokens[-1] - tokens[0]) == count - 1 and few_sizes(count) == count
