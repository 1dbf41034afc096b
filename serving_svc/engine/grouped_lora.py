"""LoRA on a CPU with the tokens grouped by adapter.

vLLM's own kernels for a CPU copy an adapter's weights, at the rank cap, for each token and layer.
Here they are multiplied in one of two ways, whichever is less work:

- dense: all tokens by the A of all adapters, other adapters' results cleared, then by all B. Few
  calls, for the few tokens of a decoding step.
- grouped: each adapter's tokens by its own A and B. Little computed in vain, for prompts.

Both in few sizes (sizes.py): oneDNN prepares a kernel for each, which takes longer than to run it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from serving_svc.engine import vnni
from serving_svc.engine.packed_weights import LinearWeights, Packed, SliceRun
from serving_svc.engine.sizes import few_sizes
from serving_svc.engine.token_groups import TokenGroups

# Multiplications that take as long as the calls which grouping costs for one adapter: for a small
# product oneDNN takes 20 µs in bfloat16, MKL 5 µs in float32, where 1 µs multiplies 0.1 million
# pairs in bfloat16 and half as many in float32 (one core of an EPYC 9004).
_GROUP_COST = {torch.float32: 600_000}
_GROUP_COST_HALF = 6_000_000
_GROUP_COST_LAID = 10_000_000
"""Where the dense way takes vLLM's products (vnni.py): 400 tokens are as fast either way."""


class GroupedLora(PunicaWrapperCPU):  # type: ignore[misc]
    """Replaces vLLM's kernels for linear layers; "no adapter" means none in them."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._groups = TokenGroups(torch.empty(0, dtype=torch.int64))
        self._ids: list[int | None] = []
        self._layers: dict[int, LinearWeights] = {}

    def update_metadata(
        self,
        mapping: Any,
        lora_index_to_id: list[int | None],
        max_loras: int,
        vocab_size: int,
        **options: Any,
    ) -> None:
        """Take the adapters of the next step's tokens."""
        super().update_metadata(mapping, lora_index_to_id, max_loras, vocab_size, **options)
        self._groups = TokenGroups(self.token_lora_indices)
        self._ids = list(lora_index_to_id)

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        *_: Any,
        **__: Any,
    ) -> None:
        """Add to y (tokens, outputs) what the tokens' adapters make of x (tokens, inputs).

        What else vLLM passes, the widths of the slices and room for what lies between, is not used.
        """
        groups = self._groups
        if not groups.slots:
            return
        if x.size(0) != groups.tokens:
            raise ValueError(f"{x.size(0)} tokens, where the step was to have {groups.tokens}")
        layer = self._layers.get(id(lora_a_stacked[0]))
        if layer is None:
            layer = LinearWeights(lora_a_stacked, lora_b_stacked)
            # It holds the tensor, whose id nothing else gets meanwhile.
            self._layers[id(lora_a_stacked[0])] = layer
        packed = layer.packed(groups.slots, y.dtype, self._ids)
        if not packed.columns:
            return
        if _is_dense(packed, groups):
            _add_dense(y, x.to(y.dtype), packed, groups, scale)
        else:
            _add_grouped(y, x.to(y.dtype), packed, groups, scale)


def _is_dense(packed: Packed, groups: TokenGroups) -> bool:
    # An adapter that is not finite would reach the others' tokens as 0 × NaN.
    if packed.not_finite:
        return False
    if packed.laid is not None:
        return groups.tokens * packed.size <= _GROUP_COST_LAID * len(groups.slots)
    cost = _GROUP_COST.get(packed.a.dtype, _GROUP_COST_HALF)
    return len(groups.slots) > 1 and groups.tokens * packed.size <= cost * len(groups.slots)


def _add_dense(
    y: torch.Tensor, x: torch.Tensor, packed: Packed, groups: TokenGroups, scale: float
) -> None:
    laid = packed.laid
    if laid is not None:
        h = vnni.multiply(x, laid.a)
    else:
        padding = few_sizes(groups.tokens) - groups.tokens
        h = torch.mm(functional.pad(x, (0, 0, 0, padding)), packed.a_flat.t())
    h = h.view(h.size(0), packed.a.size(0), -1)
    # By their bits: 0 × infinity is not 0, and a slot's infinity may be in another's row.
    h.view(packed.bits).bitwise_and_(groups.mask(h.size(0), packed.slot_of_column, packed.bits))
    for i, run in enumerate(packed.runs):
        part = h[:, run.first : run.past]
        if laid is not None:
            made = vnni.multiply_slices(part, laid.b[i])
            y[:, run.begin : run.end].view(made.shape).add_(made, alpha=scale)
        else:
            _expand(y, part.transpose(0, 1), run, run.b, scale)


def _add_grouped(
    y: torch.Tensor, x: torch.Tensor, packed: Packed, groups: TokenGroups, scale: float
) -> None:
    laid = groups.arrangement
    target = y
    if laid.order is not None:
        x, target = x.index_select(0, laid.order), y.index_select(0, laid.order)
    for slot in groups.slots:
        if slot not in packed.columns:
            continue
        first, past = packed.columns[slot]
        begin, end = laid.ranges[slot]
        a = packed.a[:, first:past].transpose(1, 2)
        h = torch.bmm(x[begin:end].expand(a.size(0), -1, -1), a)
        for run in packed.runs:
            b = run.b[:, first:past]
            _expand(target[begin:end], h[run.first : run.past], run, b, scale)
    if laid.places is not None:
        y.copy_(target.index_select(0, laid.places))


def _expand(y: torch.Tensor, h: torch.Tensor, run: SliceRun, b: torch.Tensor, scale: float) -> None:
    """Add h (slices, rows, columns) times b (slices, columns, width) to the run's part of y.

    Rows past those of y are left out.
    """
    tokens = y.size(0)
    # Not added in place: the product has more rows than y.
    made = torch.bmm(h, b)[:, :tokens].transpose(0, 1)
    y[:, run.begin : run.end].view(tokens, b.size(0), -1).add_(made, alpha=scale)
