from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving_svc.adapters.gate import check as gate
from serving_svc.adapters.gate import check_files, check_manifest, check_sizes, linear_layers
from tailorbird.errors import AdapterRefused
from tailorbird.manifest import ADAPTER_CONFIG, ADAPTER_WEIGHTS, PROBES, FileEntry
from tests.unit.serving_svc.adapters.gate.adapter_folder import (
    BASE,
    CONFIG,
    LAYER,
    A,
    B,
    describe,
    is_small,
    write_sound,
    write_weights,
)
from tests.unit.serving_svc.fakes import PROBES as SOUND_PROBES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_sound(tmp_path)
    return tmp_path


def sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir()}


def test_a_sound_adapter_passes(folder: Path) -> None:
    told = describe(folder)
    check_manifest(told, BASE)
    check_sizes(told, sizes(folder), 10**6)
    assert check_files(folder, told, BASE) == SOUND_PROBES


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"base_model_digest": f"sha256:{'b' * 64}"}, "BASE_MISMATCH"),
        ({"chat_template_digest": f"sha256:{'b' * 64}"}, "TEMPLATE_MISMATCH"),
        ({"rank": 17}, "RANK_TOO_HIGH"),
        ({"rank": 0}, "MANIFEST_INVALID"),
        ({"rank": 7}, "TENSOR_MISMATCH"),
        ({"alpha": 1e300}, "NOT_FINITE"),
        ({"alpha": 1e300, "use_rslora": True}, "NOT_FINITE"),
        ({"alpha": 0}, "CONFIG_UNSUPPORTED"),
        ({"alpha": -16}, "CONFIG_UNSUPPORTED"),
        ({"alpha": float("nan")}, "CONFIG_UNSUPPORTED"),
        ({"files": {}}, "MANIFEST_INVALID"),
        ({"target_modules": ("v_proj",)}, "TENSOR_MISMATCH"),
        ({"target_modules": ("x" * 10**6,)}, "TENSOR_MISMATCH"),
        ({"base_model_digest": f"sha256:{'b' * 64}", "base_model": "x" * 10**6}, "BASE_MISMATCH"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_manifest_that_does_not_fit_is_refused(
    folder: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(AdapterRefused) as caught:
        check_manifest(describe(folder, **changes), BASE)
    assert caught.value.reason == reason
    assert not caught.value.retryable
    assert is_small(caught.value)


@pytest.mark.parametrize("rank", [1, 7, 16])
def test_any_rank_up_to_the_cap_may_be_served(folder: Path, rank: int) -> None:
    shapes = {A: (rank, 12), B: (16, rank)}
    check_manifest(describe(folder, rank=rank, tensors=shapes), BASE)


def test_a_base_in_an_unknown_number_format_is_an_error() -> None:
    with pytest.raises(ValueError, match="float64"):
        replace(BASE, dtype="float64")


def test_sizes_are_compared_before_anything_is_fetched(folder: Path) -> None:
    told = describe(folder)
    stored = sizes(folder)
    for wrong, limit, reason in (
        (stored | {PROBES: 10**12}, 10**6, "DIGEST_MISMATCH"),
        ({}, 10**6, "DIGEST_MISMATCH"),
        (stored, 10, "MANIFEST_INVALID"),
    ):
        with pytest.raises(AdapterRefused) as caught:
            check_sizes(told, wrong, limit)
        assert caught.value.reason == reason


@pytest.mark.parametrize("name", [ADAPTER_CONFIG, ADAPTER_WEIGHTS, PROBES])
def test_a_file_larger_than_it_can_need_is_not_fetched(folder: Path, name: str) -> None:
    huge = FileEntry(size=2 * 2**20, sha256="0" * 64)
    told = describe(folder)
    told = told.model_copy(update={"files": dict(told.files) | {name: huge}})
    with pytest.raises(AdapterRefused, match=name) as caught:
        check_sizes(told, sizes(folder) | {name: huge.size}, 10**12)
    assert caught.value.reason == "MANIFEST_INVALID"


@pytest.mark.parametrize("name", [ADAPTER_CONFIG, ADAPTER_WEIGHTS, PROBES])
def test_bytes_that_changed_are_refused(folder: Path, name: str) -> None:
    told = describe(folder)
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(AdapterRefused) as caught:
        check_files(folder, told, BASE)
    assert caught.value.reason == "DIGEST_MISMATCH"


def test_what_a_newer_manifest_says_of_a_file_is_no_mismatch(folder: Path) -> None:
    told = describe(folder)
    newer = {
        name: FileEntry.model_validate(entry.model_dump() | {"crc": 3})
        for name, entry in told.files.items()
    }
    check_files(folder, told.model_copy(update={"files": newer}), BASE)


@pytest.mark.parametrize("change", [{"r": 16}, {"lora_alpha": 8}, {"use_rslora": True}], ids=str)
def test_a_config_unlike_the_manifest_is_refused(folder: Path, change: dict[str, Any]) -> None:
    (folder / ADAPTER_CONFIG).write_text(json.dumps(CONFIG | change))
    with pytest.raises(AdapterRefused, match=next(iter(change))) as caught:
        check_files(folder, describe(folder), BASE)
    assert caught.value.reason == "CONFIG_UNSUPPORTED"


@pytest.mark.parametrize(
    ("dtype", "alpha", "refused"),
    [
        ("float32", 1e4, False),
        ("bfloat16", 1e4, False),
        ("float16", 1e4, True),
        ("float16", 1e5, True),
    ],
)
def test_weights_are_judged_in_the_engines_number_format(
    folder: Path, dtype: str, alpha: float, refused: bool
) -> None:
    (folder / ADAPTER_CONFIG).write_text(json.dumps(CONFIG | {"lora_alpha": alpha}))
    told = describe(folder, alpha=alpha)
    base = replace(BASE, dtype=dtype)
    if not refused:
        check_files(folder, told, base)
        return
    with pytest.raises(AdapterRefused) as caught:
        check_files(folder, told, base)
    assert caught.value.reason == "NOT_FINITE"


def test_rslora_scales_by_the_root_of_the_rank(folder: Path) -> None:
    # At rank 8 the one is 32,000 and the other 90,500: float16 ends between.
    def check(*, use_rslora: bool) -> None:
        change = {"lora_alpha": 256_000, "use_rslora": use_rslora}
        (folder / ADAPTER_CONFIG).write_text(json.dumps(CONFIG | change))
        told = describe(folder, alpha=256_000, use_rslora=use_rslora)
        check_files(folder, told, replace(BASE, dtype="float16"))

    write_weights(folder, A=np.full((8, 12), 2.0**-6, np.float32))
    with pytest.raises(AdapterRefused, match="may add"):
        check(use_rslora=False)
    with pytest.raises(AdapterRefused, match="scaling"):
        check(use_rslora=True)


@pytest.mark.parametrize("error", [MemoryError(), OSError(5, "Input/output error")], ids=str)
def test_a_check_that_this_machine_cannot_finish_is_retryable(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    told = describe(folder)
    monkeypatch.setattr(gate, "check_weights", fail)
    with pytest.raises(AdapterRefused) as caught:
        check_files(folder, told, BASE)
    assert caught.value.reason == "CHECK_INTERRUPTED"
    assert caught.value.retryable


def test_linear_layers_are_neither_embeddings_nor_the_head() -> None:
    shapes = {
        "model.embed_tokens.weight": (10, 4),
        "lm_head.weight": (10, 4),
        "model.layers.0.mlp.up_proj.weight": (8, 4),
        "model.layers.0.mlp.up_proj.bias": (8,),
        "model.layers.0.input_layernorm.weight": (4,),
    }
    assert linear_layers(shapes) == {"model.layers.0.mlp.up_proj": (8, 4)}
    assert LAYER in linear_layers({f"{LAYER}.weight": (16, 12)})
