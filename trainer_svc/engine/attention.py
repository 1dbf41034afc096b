"""Attention over a padding-free sequence: each record attends to itself alone.

transformers' sdpa path builds one mask over the whole packed sequence, whose cost grows with the
square of the step. Here no mask is built. Where a GPU and the number format allow it, one kernel
computes all segments; elsewhere every segment is a causal attention of its own, and short
neighbours of one length are a batch. On a CPU it runs in float32: torch's bfloat16 kernel there
takes several times as long in the backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PretrainedConfig

from trainer_svc.engine.short_attention import SHORT, attend_short
from trainer_svc.engine.varlen_attention import attend_varlen, fits

_SHORT = 512
"""Tokens of a segment from which on a batch of them gains nothing, measured on a CPU."""

PACKED = "tailorbird_packed"

_PLAIN_CAUSAL = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Model types whose attention is causal and scaled, and nothing else, without a sliding window."""


class Remembered(Protocol):
    """What earlier passes left of records that this pass goes on with; see generation.packed."""

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        """Remember keys and values of the pass; attend to them and to those before.

        query is [tokens, heads, head_dim], key and value [tokens, key heads, head_dim]. Returns
        [tokens, heads, head_dim].
        """


def attention_for(config: PretrainedConfig) -> str:
    """Return the attention implementation to load a base with: PACKED, or "sdpa" in doubt.

    "sdpa" separates the records of a packed sequence too, by its position ids, only more slowly.
    """
    window = getattr(config, "sliding_window", None) if _uses_window(config) else None
    if config.model_type not in _PLAIN_CAUSAL or window is not None:
        return "sdpa"
    # With no mask registered beside it, transformers makes none, and asks the device for nothing.
    AttentionInterface.register(PACKED, packed_attention)
    return PACKED


def attention_name(config: PretrainedConfig, device: torch.device, dtype: torch.dtype) -> str:
    """Return how a loaded base attends in products of `dtype`, for GetTrainerInfo.

    "varlen": one kernel for all segments. "segments": one call for each, or for some neighbours.
    Otherwise what transformers calls it.
    """
    if config._attn_implementation != PACKED:  # noqa: SLF001
        return str(config._attn_implementation)  # noqa: SLF001
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return "varlen" if fits(device, dtype, head_dim) else "segments"


def _uses_window(config: PretrainedConfig) -> bool:
    return bool(getattr(config, "use_sliding_window", True))


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _attention_mask: torch.Tensor | None,
    *,
    segment_lengths: Sequence[int] = (),
    remembered: Remembered | None = None,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend causally within each segment, or to what is remembered.

    query is [1, heads, tokens, head_dim], key and value [1, key heads, tokens, head_dim]; the
    segment lengths add up to tokens. Returns [1, tokens, heads, head_dim].
    """
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    if query.device.type == "cpu":
        value = value.to(query.dtype)
    if remembered is None:
        attended = attend(query, key, value, segment_lengths, scaling)
    else:
        attended = remembered.attend(module.layer_idx, query, key, value, scaling)
    # What else reads its dtype, as serving's arithmetic does, gets what it asked with.
    return attended.to(query.dtype).unsqueeze(0), None


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segment_lengths: Sequence[int],
    scaling: float,
) -> torch.Tensor:
    """Attend causally within each segment.

    query is [tokens, heads, head_dim], key and value [tokens, key heads, head_dim]. Returns
    [tokens, heads, head_dim] in the dtype of the value, in which a GPU computes. On a CPU a value
    in bfloat16 beside others in float32 means that short segments may be computed in it.
    """
    dtype = value.dtype
    if fits(query.device, dtype, query.shape[-1]):
        return attend_varlen(query.to(dtype), key.to(dtype), value, segment_lengths, scaling)
    on_cpu = query.device.type == "cpu"
    reduced = on_cpu and dtype != query.dtype
    query, key = (each.to(torch.float32 if on_cpu else dtype) for each in (query, key))
    spans = _spans(segment_lengths, SHORT if reduced else 0)
    sizes = [sum(lengths) for _, lengths in spans]
    outputs = []
    with torch.autocast(query.device.type, enabled=False):
        # Cut once: to cut a piece at a time costs the whole sequence each time, backward.
        pieces = zip(*(torch.split(tensor, sizes) for tensor in (query, key, value)), strict=True)
        for (short, lengths), (q, k, v) in zip(spans, pieces, strict=True):
            if short:
                outputs.append(attend_short(q, k, v, lengths, scaling))
            else:
                outputs.append(_attend_long(q, k, v, len(lengths), scaling).to(dtype))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _attend_long(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, count: int, scaling: float
) -> torch.Tensor:
    """Attend within each of `count` segments of one length."""
    q, k, v = (_stacked(tensor, count) for tensor in (query, key, value.to(query.dtype)))
    grouped = key.shape[1] != query.shape[1]
    attended = scaled_dot_product_attention(
        q, k, v, is_causal=True, scale=scaling, enable_gqa=grouped
    )
    return attended.transpose(1, 2).flatten(0, 1)


def _spans(segment_lengths: Sequence[int], short: int) -> list[tuple[bool, list[int]]]:
    """Return lengths of neighbours that are computed together, and whether all are short ones."""
    found: list[tuple[bool, list[int]]] = []
    for count, length in runs(segment_lengths):
        lengths = [length] * count
        if length <= short and found and found[-1][0]:
            found[-1][1].extend(lengths)
        else:
            found.append((length <= short, lengths))
    return found


def runs(segment_lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Return (count, length) of segments that attend as one batch, in their order.

    Neighbours of one length do, where they are short; long ones fill the machine by themselves.
    """
    found: list[tuple[int, int]] = []
    for length in segment_lengths:
        if found and found[-1][1] == length <= _SHORT:
            found[-1] = (found[-1][0] + 1, length)
        else:
            found.append((1, length))
    return found


def _stacked(rows: torch.Tensor, count: int) -> torch.Tensor:
    """Cut [count * length, heads, head_dim] into [count, heads, length, head_dim]."""
    return rows.view(count, -1, *rows.shape[1:]).transpose(1, 2)
