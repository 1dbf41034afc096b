from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from trainer_svc.engine.attention import attend, packed_attention
from trainer_svc.engine.short_attention import SHORT

HEADS, HEAD_DIM = 4, 16


def draw(tokens: int, key_heads: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    heads = (HEADS, key_heads, key_heads)
    drawn = [torch.randn(tokens, each, HEAD_DIM, generator=generator) for each in heads]
    return [each.bfloat16().float().requires_grad_() for each in drawn]


def exact(tensors: list[torch.Tensor], lengths: list[int]) -> torch.Tensor:
    pieces = zip(*(torch.split(each.transpose(0, 1), lengths, 1) for each in tensors), strict=True)
    alone = [
        scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True, enable_gqa=True)
        for q, k, v in pieces
    ]
    return torch.cat([each[0] for each in alone], 1).transpose(0, 1)


@pytest.mark.parametrize("lengths", [[1], [7, 7, 7], [5, 40, 40, 2], [SHORT + 1, 3]])
@pytest.mark.parametrize("key_heads", [4, 2, 1])
def test_it_is_attention_to_the_bits_that_are_left(lengths: list[int], key_heads: int) -> None:
    tensors = draw(sum(lengths), key_heads)
    query, key, value = tensors
    expected = exact(tensors, lengths)
    found = attend(query, key, value.bfloat16(), lengths, HEAD_DIM**-0.5)
    assert found.dtype == torch.bfloat16
    assert found.shape == expected.shape
    outer = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad(found, tensors, outer.bfloat16())
    theirs = torch.autograd.grad(expected, tensors, outer)
    for one, other in zip((found, *ours), (expected, *theirs), strict=True):
        assert (one - other).norm() <= 0.01 * other.norm() + 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_comes_in_one_dtype_is_exact(dtype: torch.dtype) -> None:
    tensors = draw(80, 2)
    query, key, value = (each.detach().to(dtype).transpose(0, 1)[None] for each in tensors)
    found, _ = packed_attention(
        torch.nn.Module(), query, key, value, None, segment_lengths=[40, 40], scaling=0.25
    )
    torch.testing.assert_close(found[0], exact(tensors, [40, 40]).to(dtype))
