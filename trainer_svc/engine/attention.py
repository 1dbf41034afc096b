"""Attention over a padding-free sequence: each record attends to itself alone.

transformers' sdpa path builds one mask over the whole packed sequence, whose cost grows with the
square of the step. Here every segment is a causal attention of its own, without any mask. On a CPU
it runs in float32: torch's bfloat16 kernel there takes several times as long in the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig

PACKED = "tailorbird_packed"

_PLAIN_CAUSAL = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Model types whose attention is causal and scaled, and nothing else, without a sliding window."""


def attention_for(config: PretrainedConfig) -> str:
    """Return the attention implementation to load a base with: PACKED, or "sdpa" in doubt.

    "sdpa" separates the records of a packed sequence too, by its position ids, only more slowly.
    """
    window = getattr(config, "sliding_window", None) if _uses_window(config) else None
    if config.model_type not in _PLAIN_CAUSAL or window is not None:
        return "sdpa"
    AttentionInterface.register(PACKED, packed_attention)
    AttentionMaskInterface.register(PACKED, _no_mask)
    return PACKED


def _uses_window(config: PretrainedConfig) -> bool:
    return bool(getattr(config, "use_sliding_window", True))


def packed_attention(
    _module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _attention_mask: torch.Tensor | None,
    *,
    segment_lengths: list[int],
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend causally within each segment.

    query is [1, heads, tokens, head_dim], key and value [1, key heads, tokens, head_dim]; the
    segment lengths add up to tokens. Returns [1, tokens, heads, head_dim].
    """
    dtype = query.dtype
    if query.device.type == "cpu":
        query, key, value = query.float(), key.float(), value.float()
    grouped = key.shape[1] != query.shape[1]
    with torch.autocast(query.device.type, enabled=False):
        outputs = [
            scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=grouped)
            for q, k, v in zip(
                torch.split(query, segment_lengths, 2),
                torch.split(key, segment_lengths, 2),
                torch.split(value, segment_lengths, 2),
                strict=True,
            )
        ]
    return torch.cat(outputs, 2).transpose(1, 2).to(dtype), None


def _no_mask(*_: Any, **__: Any) -> None:
    return None
