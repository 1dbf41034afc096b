"""The tensors of an adapter against the base; the numbers against what torch makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from serving_svc.adapters.gate import safetensors_file, weights
from serving_svc.adapters.gate.weights import check_tensors, check_weights, target_modules
from tailorbird.adapter_numbers import LARGEST, ROUND, scaling_of
from tailorbird.errors import AdapterRefused
from tests.unit.serving_svc.adapters.gate.adapter_folder import LAYER, A, B, header, is_small

LINEAR = {LAYER: (16, 12), "model.layers.0.mlp.up_proj": (20, 12)}
SHAPES = {A: (8, 12), B: (16, 8)}
FLOAT32_MAX = LARGEST["float32"]


def full(a: float = 1e-3, b: float = 1e-3, dtype: Any = np.float32) -> dict[str, npt.NDArray[Any]]:
    return {A: np.full((8, 12), a, dtype), B: np.full((16, 8), b, dtype)}


def refusal(folder: Path, tensors: Any, scaling: float = 1.0, dtype: str = "float32") -> str:
    """Return the reason of the refusal, or "" if there is none."""
    path = folder / "x"
    if isinstance(tensors, bytes):
        path.write_bytes(tensors)
    elif tensors:
        save = save_torch if isinstance(next(iter(tensors.values())), torch.Tensor) else save_file
        save(tensors, path)
    refused: list[AdapterRefused] = []
    try:
        check_weights(path, SHAPES, scaling, dtype)
    except AdapterRefused as error:
        refused.append(error)
    assert all(is_small(error) and not error.retryable for error in refused)
    return refused[0].reason if refused else ""


def renamed(old: str, new: str) -> dict[str, tuple[int, ...]]:
    return {name.replace(old, new): shape for name, shape in SHAPES.items()}


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({}, "no tensors"),
        ({A: (8, 12)}, "only one"),
        ({B: (16, 8)}, "only one"),
        (SHAPES | {A: (8, 6)}, "shape"),
        (SHAPES | {A: (12, 8)}, "shape"),
        (SHAPES | {A: (8, 12, 1)}, "shape"),
        (SHAPES | {A: (0, 12), B: (16, 0)}, "shape"),
        (SHAPES | {A: (10**4000, 12)}, "shape"),
        (SHAPES | {B: (16, 16)}, "shape"),
        (renamed("base_model.model.", ""), "no linear layer"),
        (renamed("base_model.model.", "base_model.model.base_model.model."), "no linear layer"),
        (renamed("base_model.model.model.", "base_model.model."), "no linear layer"),
        (renamed("layers.0", "layers.9"), "no linear layer"),
        (renamed(LAYER, "lm_head"), "no linear layer"),
        (renamed(LAYER, "model.embed_tokens"), "no linear layer"),
        (renamed(".lora_", ".default.lora_"), "no linear layer"),
        (renamed(LAYER, "x" * 100_000), "no linear layer"),
        (SHAPES | {f"base_model.model.{LAYER}.lora_magnitude_vector": (16,)}, "no linear layer"),
        (SHAPES | {f"base_model.model.{LAYER}.lora_B.bias": (16,)}, "no linear layer"),
        (SHAPES | {f"base_model.model.{LAYER}.bias": (16,)}, "no linear layer"),
        (SHAPES | {"base_model.model.model.embed_tokens.lora_embedding_A": (8, 10)}, "no linear"),
        (SHAPES | {"base_model.model.lm_head.base_layer.weight": (10, 12)}, "no linear layer"),
        (SHAPES | {"base_model.model.lm_head.modules_to_save.weight": (10, 12)}, "no linear"),
        (SHAPES | {"base_model.model.score.weight": (2, 12)}, "no linear layer"),
        (SHAPES | {f"{A}\n": (8, 12)}, "no linear layer"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_tensors_that_are_no_pairs_of_the_bases_layers_are_refused(
    tensors: Mapping[str, tuple[int, ...]], reason: str
) -> None:
    with pytest.raises(AdapterRefused, match=reason) as caught:
        check_tensors(tensors, 8, LINEAR)
    assert caught.value.reason == "TENSOR_MISMATCH"
    assert is_small(caught.value)


def test_pairs_of_some_layers_pass() -> None:
    check_tensors(SHAPES, 8, LINEAR)
    up = {
        name.replace(LAYER, "model.layers.0.mlp.up_proj"): shape for name, shape in SHAPES.items()
    }
    both = SHAPES | {name: (20, 8) if shape == (16, 8) else shape for name, shape in up.items()}
    check_tensors(both, 8, LINEAR)
    assert target_modules(both) == {"q_proj", "up_proj"}


def test_a_file_must_hold_what_the_manifest_tells(tmp_path: Path) -> None:
    sound = full()
    assert refusal(tmp_path, sound) == ""
    for tensors in (
        {A: sound[A]},
        {A: sound[A], B: sound[B][:, :4].copy()},
        sound | {"base_model.model.lm_head.weight": np.zeros((2, 2), np.float32)},
        b"",
        header([]),
    ):
        assert refusal(tmp_path, tensors) == "TENSOR_MISMATCH"


def test_a_header_that_its_tensors_do_not_need_is_refused(tmp_path: Path) -> None:
    save_file(full(), tmp_path / "x", metadata={"x": "y" * 70_000})
    assert refusal(tmp_path, {}) == "TENSOR_MISMATCH"


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.int8, np.uint16, np.bool_])
def test_only_floats_of_32_and_16_bits_are_weights(tmp_path: Path, dtype: Any) -> None:
    assert refusal(tmp_path, full(0, 0, dtype)) == "TENSOR_MISMATCH"


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("served", sorted(LARGEST))
def test_honest_weights_pass_in_every_format(
    tmp_path: Path, stored: torch.dtype, served: str
) -> None:
    tensors = {name: torch.full(shape, -0.5, dtype=stored) for name, shape in SHAPES.items()}
    assert refusal(tmp_path, tensors, 2.0, served) == ""


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("part", [A, B])
def test_numbers_that_are_not_finite_are_refused(
    tmp_path: Path, value: float, stored: torch.dtype, part: str
) -> None:
    tensors = {name: torch.zeros(shape, dtype=stored) for name, shape in SHAPES.items()}
    tensors[part][-1, -1] = value
    assert refusal(tmp_path, tensors, 2.0) == "NOT_FINITE"


@pytest.mark.parametrize(
    ("tensors", "scaling", "dtype"),
    [
        # Finite in the file, infinite once rounded: the other half is 0, so that nothing else is.
        (full(FLOAT32_MAX, 0), 1.0, "bfloat16"),
        (full(0, -FLOAT32_MAX), 1.0, "bfloat16"),
        (full(65520.0, 0), 1.0, "float16"),
        (full(0, 65520.0), 1e-3, "float16"),
        # Finite once rounded, infinite once scaled.
        (full(0, 1e38), 4.0, "float32"),
        (full(0, 1e38), 4.0, "bfloat16"),
        (full(0, 2.0), 5e4, "float16"),
        # Finite, and infinite as soon as it meets an input.
        (full(1e30, 1e30), 1.0, "float32"),
        (full(1e30, 1e30), 1.0, "bfloat16"),
        (full(1e3, 1.0), 1.0, "float16"),
        (full(1e-2, 6e4), 100.0, "float32"),
        (full(6e4, 1e-6), 1.0, "float16"),
    ],
)
def test_what_the_engine_could_not_hold_or_compute_is_refused(
    tmp_path: Path, tensors: dict[str, Any], scaling: float, dtype: str
) -> None:
    assert refusal(tmp_path, tensors, scaling, dtype) == "NOT_FINITE"


def test_every_block_and_every_row_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving_svc.adapters.gate.safetensors_file._BLOCK_BYTES", 100)
    for part in (A, B):
        for row in (0, 3, 7):
            tensors = full()
            tensors[part][row] = 1e5
            tensors[A][row, 0] = 1e5
            assert refusal(tmp_path, tensors) == "NOT_FINITE"


def test_a_file_cut_while_it_is_checked_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = safetensors_file.read_header

    def cut_after(path: Path, max_bytes: int) -> Any:
        tensors = read(path, max_bytes)
        path.write_bytes(path.read_bytes()[:-4])
        return tensors

    monkeypatch.setattr(weights, "read_header", cut_after)
    assert refusal(tmp_path, full()) == "TENSOR_MISMATCH"


@pytest.mark.parametrize(
    ("rank", "alpha", "use_rslora", "scaling"),
    [(8, 16.0, False, 2.0), (16, 16.0, True, 4.0), (7, 3.5, False, 0.5), (1, 3e38, False, 3e38)],
)
def test_the_scaling_is_alpha_by_rank_or_its_root(
    rank: int, alpha: float, use_rslora: bool, scaling: float
) -> None:
    assert scaling_of(rank, alpha, use_rslora) == scaling


@pytest.mark.parametrize(
    ("alpha", "reason"),
    [(1e300, "NOT_FINITE"), (0.0, "CONFIG_UNSUPPORTED"), (-1.0, "CONFIG_UNSUPPORTED")],
)
def test_a_scaling_that_is_no_positive_float32_is_refused(alpha: float, reason: str) -> None:
    with pytest.raises(AdapterRefused) as caught:
        scaling_of(8, alpha, use_rslora=False)
    assert caught.value.reason == reason


any_bits = st.integers(0, 2**32 - 1)
near_the_edges = st.sampled_from(
    [0x7F7FFFFF, 0xFF7FFFFF, 0x7F7F7FFF, 0x7F7F8000, 0x477FEFFF, 0x477FF000, 0xC77FF000, 1, 0]
)


@settings(max_examples=300, deadline=None)
@given(
    bits=st.lists(any_bits | near_the_edges, min_size=1, max_size=8),
    scaling=st.floats(2.0**-20, 2.0**20, width=32),
    dtype=st.sampled_from(sorted(LARGEST)),
)
def test_numbers_are_rounded_and_scaled_as_torch_does(
    bits: list[int], scaling: float, dtype: str
) -> None:
    block = np.array(bits, np.uint32).view(np.float32)
    block = block[np.isfinite(block)].reshape(1, -1)
    wanted = torch.from_numpy(block.copy()).to(getattr(torch, dtype))
    got = ROUND[dtype](block)
    np.testing.assert_array_equal(got, wanted.float().numpy())
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        finite = got[np.isfinite(got)]
        scaled = ROUND[dtype](finite * np.float32(scaling))
    wanted = wanted[torch.isfinite(wanted)]
    # As in vLLM's LoRALayerWeights.optimize.
    wanted *= scaling
    np.testing.assert_array_equal(scaled, wanted.float().numpy())


def test_largest_is_the_largest() -> None:
    for name, value in LARGEST.items():
        assert value == torch.finfo(getattr(torch, name)).max
