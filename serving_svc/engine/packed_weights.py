"""LoRA weights of one linear layer, the adapters' side by side at their own ranks.

vLLM keeps them at the rank cap: A (slots, 1, cap, inputs) and B (slots, 1, outputs, cap) for each
slice of the layer, such as q, k and v; what an adapter does not fill is zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

_BITS = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}


@dataclass(frozen=True, slots=True)
class SliceRun:
    """Neighbouring slices of one width."""

    first: int
    """The first of them, counted in the layer's slices."""
    past: int
    begin: int
    """Where they begin and end in the layer's output."""
    end: int
    b: torch.Tensor
    """(slices, columns, width)"""


@dataclass(frozen=True, slots=True)
class Packed:
    """The weights of some slots; each has as many columns as its adapter's rank."""

    slots: frozenset[int]
    columns: dict[int, tuple[int, int]]
    """First column and one past the last, by slot; without slots that leave the layer alone."""
    slot_of_column: tuple[int, ...]
    a: torch.Tensor
    """(slices, columns, inputs)"""
    a_flat: torch.Tensor
    """The same as (inputs, slices × columns)."""
    runs: tuple[SliceRun, ...]
    size: int
    """Numbers in A and B together: multiplications a token."""
    finite: bool
    """Whether 0 times any number in B is 0."""
    bits: torch.dtype
    """The integers as wide as its numbers."""


class LinearWeights:
    """What vLLM holds for one layer, watched for changes, and what was last packed of it."""

    def __init__(self, lora_a: Sequence[torch.Tensor], lora_b: Sequence[torch.Tensor]) -> None:
        self._held = (*lora_a, *lora_b)
        self._a = [slice_a[:, 0] for slice_a in lora_a]
        self._b = [slice_b[:, 0] for slice_b in lora_b]
        self._versions: list[int] = []
        self._ranks: list[int] = []
        self._packed: Packed | None = None
        self._asked: tuple[int, ...] = ()

    def packed(self, slots: tuple[int, ...], dtype: torch.dtype) -> Packed:
        """Return what `slots` hold now, among others perhaps, as numbers of `dtype`."""
        # Torch counts the changes in place of a tensor, those through views of it too: whatever
        # fills or clears a slot, in whatever order, is seen.
        versions = [held._version for held in self._held]  # noqa: SLF001
        packed = self._packed
        if versions != self._versions:
            self._ranks, self._versions, packed = self._read_ranks(), versions, None
        elif packed is not None and slots is self._asked and packed.a.dtype is dtype:
            return packed
        if packed is None or packed.a.dtype is not dtype or not packed.slots.issuperset(slots):
            packed = self._pack(self._with_others(slots, packed), dtype)
        self._packed, self._asked = packed, slots
        return packed

    def _with_others(self, slots: tuple[int, ...], packed: Packed | None) -> list[int]:
        """Add the slots packed before: they may come again, and cost little if they are few."""
        both = packed.slots.union(slots) if packed else set(slots)
        return sorted(both if len(both) <= 2 * len(slots) else slots)

    def _read_ranks(self) -> list[int]:
        """Return the rank in each slot: the rows of A, in any slice, up to the last not zero."""
        ranks = torch.zeros(self._a[0].size(0), dtype=torch.int64)
        for a in self._a:
            # As integers: several times faster, and NaN counts. Not zero if any bit but the sign.
            numbers = a.view(_BITS[a.dtype])
            used = (numbers.amax(-1) != 0) | (numbers.amin(-1) != 0)
            rows = torch.arange(1, a.size(1) + 1)
            torch.maximum(ranks, (used * rows).amax(-1), out=ranks)
        return [int(rank) for rank in ranks.tolist()]

    def _pack(self, slots: Sequence[int], dtype: torch.dtype) -> Packed:
        ranks = [(slot, self._ranks[slot]) for slot in slots if self._ranks[slot]]
        slot_of_column = tuple(slot for slot, rank in ranks for _ in range(rank))
        columns, begin = {}, 0
        for slot, rank in ranks:
            columns[slot] = (begin, begin + rank)
            begin += rank
        inputs = self._a[0].size(-1)
        rows = [a[slot, :rank] for a in self._a for slot, rank in ranks]
        flat = torch.cat(rows).to(dtype) if rows else self._a[0].new_empty((0, inputs), dtype=dtype)
        runs = tuple(self._runs(ranks, dtype)) if rows else ()
        return Packed(
            slots=frozenset(slots),
            columns=columns,
            slot_of_column=slot_of_column,
            a=flat.view(len(self._a), len(slot_of_column), inputs),
            a_flat=flat.t(),
            runs=runs,
            size=flat.numel() + sum(run.b.numel() for run in runs),
            finite=all(_is_finite(run.b) for run in runs),
            bits=_BITS[dtype],
        )

    def _runs(self, ranks: Sequence[tuple[int, int]], dtype: torch.dtype) -> list[SliceRun]:
        runs, begin = [], 0
        for width, members in groupby(range(len(self._b)), lambda i: self._b[i].size(1)):
            slices = list(members)
            columns = [self._b[i][slot, :, :rank].t() for i in slices for slot, rank in ranks]
            b = torch.cat(columns).to(dtype).view(len(slices), -1, width)
            end = begin + len(slices) * width
            runs.append(SliceRun(slices[0], slices[-1] + 1, begin, end, b))
            begin = end
        return runs


def _is_finite(numbers: torch.Tensor) -> bool:
    low, high = torch.aminmax(numbers)
    return bool(torch.isfinite(low) & torch.isfinite(high))
