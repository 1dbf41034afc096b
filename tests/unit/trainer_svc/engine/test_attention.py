from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, LlamaConfig

from trainer_svc.engine.attention import attention_for, packed_attention, runs


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


class _HostReads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts reads of a tensor's values by the host, for which a GPU would be waited for."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_a_forward_pass_waits_for_nothing() -> None:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    implementation = attention_for(config)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation)
    positions = torch.cat([torch.arange(5), torch.arange(7)])[None]
    with _HostReads() as reads, torch.no_grad():  # type: ignore[no-untyped-call]
        model.get_decoder()(
            input_ids=torch.arange(12)[None],
            position_ids=positions,
            use_cache=False,
            segment_lengths=[5, 7],
        )
    assert reads.count == 0
