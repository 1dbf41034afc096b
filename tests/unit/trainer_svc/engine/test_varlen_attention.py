"""Attention on a GPU, as far as a machine without one can tell.

torch's own function is called on tensors without values, which checks arguments and shapes, forward
and backward; its numbers are stood in for by plain attention, which reads the same offsets.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import LlamaConfig, PretrainedConfig

from trainer_svc.engine.attention import PACKED, attend, attention_name, packed_attention
from trainer_svc.engine.varlen_attention import _offsets, attend_varlen, fits

CUDA, BF16 = torch.device("cuda"), torch.bfloat16
LENGTHS = [3, 7, 7, 1, 20]


def draw(key_heads: int, dtype: torch.dtype, device: str = "cpu") -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(38, heads, 8, generator=generator) for heads in (4, key_heads, key_heads)]
    return [each.bfloat16().to(device, dtype).requires_grad_() for each in drawn]


def alone(tensors: Sequence[torch.Tensor], lengths: Sequence[int]) -> torch.Tensor:
    pieces = [torch.split(each.transpose(0, 1)[None], list(lengths), 2) for each in tensors]
    attended = [
        scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3, enable_gqa=True)
        for q, k, v in zip(*pieces, strict=True)
    ]
    return torch.cat(attended, 2)[0].transpose(0, 1)


def kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    offsets: torch.Tensor,
    key_offsets: torch.Tensor,
    longest: int,
    longest_key: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> torch.Tensor:
    """Plain attention under the rules of torch's kernel."""
    assert query.dtype == key.dtype == value.dtype == BF16
    assert offsets.dtype == torch.int32
    assert torch.equal(offsets, key_offsets)
    assert int(offsets[0]) == 0
    assert int(offsets[-1]) == len(query) == len(key) == len(value)
    lengths = offsets.diff().tolist()
    assert longest == longest_key == max(lengths)
    assert (scale, window_size) == (0.3, (-1, 0))
    assert enable_gqa is (query.shape[1] != key.shape[1])
    return alone([query, key, value], lengths)


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    monkeypatch.setattr("trainer_svc.engine.attention.fits", lambda *_: True)


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("key_heads", [4, 2])
def test_each_segment_attends_to_itself(key_heads: int) -> None:
    tensors, wide = draw(key_heads, BF16), draw(key_heads, torch.float32)
    found = attend(tensors[0], tensors[1], tensors[2], LENGTHS, 0.3)
    expected = alone(wide, LENGTHS)
    assert found.dtype == BF16
    torch.testing.assert_close(found.float(), expected, rtol=2e-2, atol=2e-2)
    outer = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad(found, tensors, outer.bfloat16())
    theirs = torch.autograd.grad(expected, wide, outer)
    for one, other in zip(ours, theirs, strict=True):
        assert float((one.float() - other).norm() / other.norm()) < 2e-2


def test_torch_takes_what_it_is_given() -> None:
    tensors = draw(2, BF16, "meta")
    found = attend_varlen(tensors[0], tensors[1], tensors[2], LENGTHS, 0.3)
    assert (found.shape, found.dtype) == ((38, 4, 8), BF16)
    gradients = torch.autograd.grad(found, tensors, torch.empty_like(found))
    assert [each.shape for each in gradients] == [each.shape for each in tensors]


def test_the_layers_of_a_pass_share_the_offsets() -> None:
    cpu = torch.device("cpu")
    found = _offsets((4, 2), cpu)
    assert found.tolist() == [0, 4, 6]
    assert _offsets((4, 2), cpu) is found
    assert _offsets((4, 3), cpu).tolist() == [0, 4, 7]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"dtype": torch.float16}, True),
        ({"head_dim": 192}, True),
        ({"device": torch.device("cpu")}, False),
        ({"dtype": torch.float32}, False),
        ({"head_dim": 100}, False),
        ({"head_dim": 200}, False),
        ({"built": False}, False),
        ({"capability": (7, 5)}, False),
    ],
)
def test_the_kernel_is_for_some_tensors_on_some_gpus(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], expected: bool
) -> None:
    case = {"device": CUDA, "dtype": BF16, "head_dim": 128, **changes}
    built, capability = case.pop("built", True), case.pop("capability", (9, 0))
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: built)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert fits(**case) is expected


def config(implementation: str, **changes: Any) -> PretrainedConfig:
    made = LlamaConfig(hidden_size=64, num_attention_heads=4, **changes)
    made._attn_implementation = implementation
    return made


def test_the_name_says_what_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, fitting = torch.device("cpu"), lambda device, _, head_dim: (device, head_dim) == (CUDA, 16)
    monkeypatch.setattr("trainer_svc.engine.attention.fits", fitting)
    assert attention_name(config(PACKED), CUDA, BF16) == "varlen"
    assert attention_name(config(PACKED, head_dim=12), CUDA, BF16) == "segments"
    assert attention_name(config(PACKED), cpu, BF16) == "segments"
    assert attention_name(config("sdpa"), CUDA, BF16) == "sdpa"


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_model_s_own_module_gets_the_dtype_it_asked_with(
    monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    """Whatever the dtype of its values; on a GPU where the kernel does not fit, too."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    query, key, value = (each[None].transpose(1, 2) for each in draw(2, torch.float32, device))
    found, _ = packed_attention(
        torch.nn.Module(), query, key, value.to(BF16), None, segment_lengths=LENGTHS, scaling=0.3
    )
    assert (found.shape, found.dtype) == ((1, 38, 4, 8), torch.float32)
