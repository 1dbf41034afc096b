"""LoRA weights of one linear layer, the adapters' side by side at their own ranks.

vLLM keeps them at the rank cap: A (slots, 1, cap, inputs) and B (slots, 1, outputs, cap) for each
slice of the layer, such as q, k and v; what an adapter does not fill is zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest

import torch

from serving_svc.engine import vnni
from serving_svc.engine.sizes import few_sizes

_NO_SLOT = -2
"""A column of padding, which is no token's."""

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
class LaidOut:
    """The weights as vLLM's products for small matrices take them (vnni.py)."""

    a: torch.Tensor
    """(slices × columns, inputs)"""
    b: tuple[torch.Tensor, ...]
    """(slices, width, columns) of each run."""


@dataclass(frozen=True, slots=True)
class Packed:
    """The weights of some slots; each has as many columns as its adapter's rank.

    The columns past the last slot's, up to one of the few sizes, are zero.
    """

    slots: frozenset[int]
    columns: dict[int, tuple[int, int]]
    """First column and one past the last, by slot; without slots that leave the layer alone."""
    slot_of_column: tuple[int, ...]
    a: torch.Tensor
    """(slices, columns, inputs)"""
    a_flat: torch.Tensor
    """The same as (slices × columns, inputs)."""
    runs: tuple[SliceRun, ...]
    laid: LaidOut | None
    """The same once more; None where one of the products could not be made so."""
    size: int
    """Numbers in A and B together: multiplications a token."""
    not_finite: set[int]
    """Slots with a number in B that 0 does not make 0."""
    bits: torch.dtype
    """The integers as wide as its numbers."""


class LinearWeights:
    """What vLLM holds for one layer, watched for changes, and what was last packed of it."""

    def __init__(self, lora_a: Sequence[torch.Tensor], lora_b: Sequence[torch.Tensor]) -> None:
        self._held = (*lora_a, *lora_b)
        self._a = [slice_a[:, 0] for slice_a in lora_a]
        self._b = [slice_b[:, 0] for slice_b in lora_b]
        self._versions: list[int] = []
        self._marks: list[tuple[int | None, int]] = [(None, 0)] * self._a[0].size(0)
        self._ranks = [0] * self._a[0].size(0)
        self._packed: Packed | None = None
        self._asked: tuple[int, ...] = ()

    def packed(
        self, slots: tuple[int, ...], dtype: torch.dtype, ids: Sequence[int | None] = ()
    ) -> Packed:
        """Return what `slots` hold now, among others perhaps, as numbers of `dtype`.

        `ids`: the adapter in each slot. An id stands for the same weights while it is in use.
        """
        # Torch counts the changes in place of a tensor, those through views of it too: whatever
        # fills or clears a slot, in whatever order, is seen.
        versions = [held._version for held in self._held]  # noqa: SLF001
        packed = self._packed
        if versions != self._versions:
            self._versions = versions
            self._take_changes(ids)
            packed = self._packed
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

    def _take_changes(self, ids: Sequence[int | None]) -> None:
        """Read anew the slots that were filled; into what is packed, if they fit there."""
        # The first row of A beside the id: vLLM warms up with adapters whose ids come again.
        rows = torch.stack([a.view(_BITS[a.dtype])[:, 0].sum(-1) for a in self._a]).sum(0).tolist()
        marks = list(zip_longest(ids[: len(rows)], rows))
        changed = [slot for slot, mark in enumerate(marks) if mark != self._marks[slot]]
        # Filled with the same again, or with what is alike there: any may have been.
        changed = changed or list(range(len(marks)))
        self._marks = marks
        packed = self._packed
        for slot in changed:
            self._ranks[slot] = self._read_rank(slot)
            if packed is not None and slot in packed.slots:
                first, past = packed.columns.get(slot, (0, 0))
                packed = packed if past - first == self._ranks[slot] else None
        if packed is not None:
            for slot in packed.slots.intersection(changed):
                self._refill(packed, slot)
        self._packed = packed

    def _read_rank(self, slot: int) -> int:
        """Return the rank in a slot: the rows of A, in any slice, up to the last not zero."""
        rank = 0
        for a in self._a:
            # As integers: several times faster, and NaN counts. Not zero if any bit but the sign.
            numbers = a[slot].view(_BITS[a.dtype])
            used = ((numbers.amax(-1) != 0) | (numbers.amin(-1) != 0)).nonzero()
            rank = max(rank, int(used[-1]) + 1 if len(used) else 0)
        return rank

    def _refill(self, packed: Packed, slot: int) -> None:
        """Write what a slot holds now over what was packed of it, at the same rank."""
        if slot not in packed.columns:
            return
        first, past = packed.columns[slot]
        for part, a in zip(packed.a, self._a, strict=True):
            part[first:past].copy_(a[slot, : past - first])
        for run in packed.runs:
            for part, i in zip(run.b, range(run.first, run.past), strict=True):
                part[first:past].copy_(self._b[i][slot, :, : past - first].t())
        _lay_out_again(packed, first, past)
        packed.not_finite.discard(slot)
        if not _is_finite(packed, slot):
            packed.not_finite.add(slot)

    def _pack(self, slots: Sequence[int], dtype: torch.dtype) -> Packed:
        ranks = [(slot, self._ranks[slot]) for slot in slots if self._ranks[slot]]
        slot_of_column = tuple(slot for slot, rank in ranks for _ in range(rank))
        columns, begin = {}, 0
        for slot, rank in ranks:
            columns[slot] = (begin, begin + rank)
            begin += rank
        inputs = self._a[0].size(-1)
        padding = few_sizes(begin, vnni.BLOCK) - begin if begin else 0
        slot_of_column += (_NO_SLOT,) * padding
        zeros = self._a[0].new_zeros((padding, inputs))
        rows = [
            part for a in self._a for part in (*(a[slot, :rank] for slot, rank in ranks), zeros)
        ]
        flat = torch.cat(rows).to(dtype)
        runs = tuple(self._runs(ranks, padding, dtype)) if begin else ()
        packed = Packed(
            slots=frozenset(slots),
            columns=columns,
            slot_of_column=slot_of_column,
            a=flat.view(len(self._a), len(slot_of_column), inputs),
            a_flat=flat,
            runs=runs,
            laid=_lay_out(flat, runs),
            size=flat.numel() + sum(run.b.numel() for run in runs),
            not_finite=set(),
            bits=_BITS[dtype],
        )
        packed.not_finite.update(slot for slot in columns if not _is_finite(packed, slot))
        return packed

    def _runs(
        self, ranks: Sequence[tuple[int, int]], padding: int, dtype: torch.dtype
    ) -> list[SliceRun]:
        runs, begin = [], 0
        for width, members in groupby(range(len(self._b)), lambda i: self._b[i].size(1)):
            slices = list(members)
            zeros = self._b[slices[0]].new_zeros((padding, width))
            columns = [
                part
                for i in slices
                for part in (*(self._b[i][slot, :, :rank].t() for slot, rank in ranks), zeros)
            ]
            b = torch.cat(columns).to(dtype).view(len(slices), -1, width)
            end = begin + len(slices) * width
            runs.append(SliceRun(slices[0], slices[-1] + 1, begin, end, b))
            begin = end
        return runs


def _lay_out(a: torch.Tensor, runs: Sequence[SliceRun]) -> LaidOut | None:
    products = [a, *(run.b[0].t() for run in runs)]
    if not runs or not all(vnni.can_multiply(one.dtype, *one.shape) for one in products):
        return None
    return LaidOut(vnni.lay_out(a), tuple(vnni.lay_out(run.b.transpose(1, 2)) for run in runs))


def _lay_out_again(packed: Packed, first: int, past: int) -> None:
    """Lay out anew the blocks that some columns lie in."""
    if packed.laid is None:
        return
    first, past = first // vnni.BLOCK * vnni.BLOCK, -(-past // vnni.BLOCK) * vnni.BLOCK
    for rows, laid in zip(packed.a, packed.laid.a.view(packed.a.shape), strict=True):
        laid[first:past].copy_(vnni.lay_out(rows[first:past]))
    for run, laid in zip(packed.runs, packed.laid.b, strict=True):
        vnni.lay_inputs_anew(laid, first, run.b[:, first:past].transpose(1, 2))


def _is_finite(packed: Packed, slot: int) -> bool:
    first, past = packed.columns[slot]
    return all(bool(torch.isfinite(run.b[:, first:past]).all()) for run in packed.runs)
