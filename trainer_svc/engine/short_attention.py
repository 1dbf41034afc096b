"""Causal attention of short segments in 16 bits, for a CPU.

torch's fused kernels there are slow in bfloat16 (see trainer_svc.engine.attention) and use no
bfloat16 instructions in float32. For a short segment the whole matrix of weights is small: it is
kept, and every product but that of the scores, which are exponents, runs in bfloat16.
"""

from __future__ import annotations

from typing import Any

import torch

SHORT = 256
"""Tokens of the longest segment whose weights are kept: 128 KiB a head."""


def attend_short(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
) -> torch.Tensor:
    """Attend causally in each of a batch of segments.

    query is [segments, heads, length, head_dim] float32, key alike with its own heads, value as the
    key in bfloat16. Returns bfloat16 of the query's shape.
    """
    attended: torch.Tensor = _ShortAttention.apply(  # type: ignore[no-untyped-call]
        query, key, value, scaling
    )
    return attended


class _ShortAttention(torch.autograd.Function):
    """Heads that share a key are further rows of one product, so nothing is repeated."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        segments, key_heads, length, head_dim = key.shape
        q = query.reshape(segments * key_heads, -1, head_dim)
        k, v = (each.reshape(-1, length, head_dim) for each in (key, value))
        mask = torch.full((length, length), float("-inf"), device=q.device).triu_(1)
        mask = mask.repeat(q.shape[1] // length, 1)
        scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=scaling)
        weights = torch.softmax(scores, -1).to(v.dtype)
        ctx.save_for_backward(q.to(v.dtype), k.to(v.dtype), v, weights)
        ctx.scaling, ctx.shape, ctx.dtype = scaling, query.shape, query.dtype
        return torch.bmm(weights, v).view(query.shape)

    @staticmethod
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[Any, ...]:
        q, k, v, weights = ctx.saved_tensors
        outer = outer.to(v.dtype).reshape(q.shape)
        of_weights = torch.bmm(outer, v.transpose(1, 2))
        of_scores = torch._softmax_backward_data(of_weights, weights, -1, v.dtype)  # noqa: SLF001
        of_scores *= ctx.scaling
        segments = ctx.shape[0]
        of_query = torch.bmm(of_scores, k).view(ctx.shape).to(ctx.dtype)
        of_key = torch.bmm(of_scores.transpose(1, 2), q).view(segments, -1, *k.shape[1:])
        of_value = torch.bmm(weights.transpose(1, 2), outer).view(segments, -1, *v.shape[1:])
        return of_query, of_key.to(ctx.dtype), of_value, None
