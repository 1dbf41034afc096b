"""Causal attention of short segments in 16 bits, for a CPU.

torch's fused kernels there are slow in bfloat16 (see trainer_svc.engine.attention) and use no
bfloat16 instructions in float32. For a short segment the whole matrix of weights is small: it is
kept, and every product but that of the scores, which are exponents, runs in bfloat16. Segments of
about one length are one batch, wherever they stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

SHORT = 256
"""Tokens of the longest segment whose weights are kept: 128 KiB a head."""
_STEP = 32
"""Segments are filled up to a multiple of it, to share a batch."""


def attend_short(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segment_lengths: Sequence[int],
    scaling: float,
) -> torch.Tensor:
    """Attend causally within each segment.

    query is [tokens, heads, head_dim] float32, key alike with its own heads, value as the key in
    bfloat16. Returns bfloat16 of the query's shape.
    """
    attended: torch.Tensor = _ShortAttention.apply(  # type: ignore[no-untyped-call]
        query, key, value, batches(tuple(segment_lengths)), scaling
    )
    return attended


@dataclass(frozen=True)
class Batch:
    """Segments that are computed as if all had one length."""

    length: int
    rows: torch.Tensor | slice
    """Where the token of each of [segments * length] places stands; past a segment's end, its last
    one. A slice: neighbours that really have one length."""
    real: torch.Tensor | None
    """The places that are tokens of their own; None: all are."""
    kept: torch.Tensor
    """[segments, 1, length, 1] bool: False past a segment's end."""

    def take(self, tokens: torch.Tensor, key_heads: int) -> torch.Tensor:
        """Cut [tokens, heads, width] by key head and segment.

        Returns [key heads * segments, heads of a key * length, width].
        """
        each = self._cut(tokens, key_heads).permute(2, 0, 3, 1, 4)
        return each.reshape(-1, each.shape[2] * self.length, tokens.shape[2])

    def take_real(self, tokens: torch.Tensor, key_heads: int) -> torch.Tensor:
        """As `take`, but 0 past a segment's end."""
        taken = self.take(tokens, key_heads)
        if self.real is not None:
            taken.view(key_heads, len(self.kept), -1, self.length, taken.shape[2]).mul_(self.kept)
        return taken

    def put(self, batch: torch.Tensor, key_heads: int, into: torch.Tensor) -> None:
        """Write what `take` would cut to where it came from."""
        heads, width = into.shape[1:]
        each = batch.view(key_heads, -1, heads // key_heads, self.length, width)
        each = each.permute(1, 3, 0, 2, 4)
        if isinstance(self.rows, slice):
            into[self.rows].view(each.shape).copy_(each)
            return
        rows, found = self.rows, each.reshape(-1, heads, width)
        if self.real is not None:
            rows, found = rows[self.real], found.index_select(0, self.real)
        into.index_copy_(0, rows, found.to(into.dtype))

    def _cut(self, tokens: torch.Tensor, key_heads: int) -> torch.Tensor:
        rows = self.rows
        taken = tokens[rows] if isinstance(rows, slice) else tokens.index_select(0, rows)
        heads = tokens.shape[1] // key_heads
        return taken.view(-1, self.length, key_heads, heads, tokens.shape[2])


@lru_cache(maxsize=64)
def batches(segment_lengths: tuple[int, ...]) -> list[Batch]:
    """Return which segments, of these lengths one after another, are computed together."""
    starts: dict[int, list[tuple[int, int]]] = {}
    start = 0
    for length in segment_lengths:
        starts.setdefault(-(-length // _STEP) * _STEP, []).append((start, length))
        start += length
    return [_batch(segments) for segments in starts.values()]


def _batch(segments: Sequence[tuple[int, int]]) -> Batch:
    longest = max(length for _, length in segments)
    first = torch.tensor([start for start, _ in segments]).unsqueeze(1)
    lengths = torch.tensor([length for _, length in segments]).unsqueeze(1)
    place = torch.arange(longest).expand(len(segments), -1)
    real = place < lengths
    kept = real[:, None, :, None]
    rows = (first + place.minimum(lengths - 1)).flatten()
    start, stop = int(rows[0]), int(rows[-1]) + 1
    if real.all() and stop - start == len(rows):
        return Batch(longest, slice(start, stop), None, kept)
    places = None if real.all() else real.flatten().nonzero().squeeze(1)
    return Batch(longest, rows, places, kept)


class _ShortAttention(torch.autograd.Function):
    """Heads that share a key are further rows of one product, so nothing is repeated.

    A place past a segment's end comes after all of its tokens: they do not see it, and it has no
    gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        of: Sequence[Batch],
        scaling: float,
    ) -> torch.Tensor:
        key_heads, dtype = key.shape[1], value.dtype
        attended = torch.empty(query.shape, dtype=dtype)
        kept = []
        for batch in of:
            q, k, v = (batch.take(each, key_heads) for each in (query, key, value))
            mask = torch.full((batch.length, batch.length), float("-inf")).triu_(1)
            mask = mask.repeat(q.shape[1] // batch.length, 1)
            scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=scaling)
            weights = torch.softmax(scores, -1).to(dtype)
            batch.put(torch.bmm(weights, v), key_heads, attended)
            kept += [q.to(dtype), k.to(dtype), v, weights]
        ctx.save_for_backward(*kept)
        ctx.batches, ctx.scaling = of, scaling
        ctx.shapes, ctx.dtypes = (query.shape, key.shape), (query.dtype, key.dtype, dtype)
        return attended

    @staticmethod
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[Any, ...]:
        of_query, of_key = ctx.shapes
        key_heads = of_key[1]
        gradients = [
            torch.empty(shape, dtype=dtype)
            for shape, dtype in zip((of_query, of_key, of_key), ctx.dtypes, strict=True)
        ]
        saved = ctx.saved_tensors
        for number, batch in enumerate(ctx.batches):
            q, k, v, weights = saved[4 * number : 4 * number + 4]
            above = batch.take_real(outer.to(v.dtype), key_heads)
            of_weights = torch.bmm(above, v.transpose(1, 2))
            of_scores = torch._softmax_backward_data(of_weights, weights, -1, v.dtype)  # noqa: SLF001
            of_scores *= ctx.scaling
            for into, product in zip(
                gradients,
                (
                    torch.bmm(of_scores, k),
                    torch.bmm(of_scores.transpose(1, 2), q),
                    torch.bmm(weights.transpose(1, 2), above),
                ),
                strict=True,
            ):
                batch.put(product, key_heads, into)
        return *gradients, None, None
