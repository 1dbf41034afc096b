from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from trainer_svc.engine.attention import packed_attention, runs


@pytest.mark.parametrize("lengths", [[5], [4, 4, 4], [3, 7, 7, 1, 1, 2], [600, 600, 3]])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_each_segment_attends_to_itself(lengths: list[int], key_heads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = [
        torch.randn(1, heads, sum(lengths), 8, generator=generator, requires_grad=True)
        for heads in (4, key_heads, key_heads)
    ]
    query, key, value = tensors
    found, weights = packed_attention(
        torch.nn.Module(), query, key, value, None, segment_lengths=lengths, scaling=0.3
    )
    alone = [
        scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3, enable_gqa=True)
        for q, k, v in zip(*(torch.split(t, lengths, 2) for t in tensors), strict=True)
    ]
    expected = torch.cat(alone, 2).transpose(1, 2)
    assert weights is None
    torch.testing.assert_close(found, expected)
    outer = torch.randn(found.shape, generator=generator)
    ours = torch.autograd.grad(found, tensors, outer)
    theirs = torch.autograd.grad(expected, tensors, outer)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_short_neighbours_of_one_length_are_a_batch() -> None:
    assert runs([9, 9, 4, 9]) == [(2, 9), (1, 4), (1, 9)]
    assert runs([512, 512]) == [(2, 512)]
    assert runs([513, 513]) == [(1, 513), (1, 513)]
