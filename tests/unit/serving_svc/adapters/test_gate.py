from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from serving_svc.adapters.gate import (
    ServedBase,
    check_files,
    check_manifest,
    check_sizes,
    judge_probes,
    linear_layers,
)
from serving_svc.adapters.safetensors_file import all_finite, read_header
from tailorbird.errors import AdapterRefused
from tailorbird.manifest import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    PROBES,
    AdapterManifest,
    Probes,
    ProbeSequence,
    file_entry,
)
from tests.unit.serving_svc.fakes import DIGEST, manifest, version
from tests.unit.serving_svc.fakes import PROBES as SOUND_PROBES

LAYER = "model.layers.0.self_attn.q_proj"
A, B = (f"base_model.model.{LAYER}.lora_{part}.weight" for part in "AB")
BASE = ServedBase(
    digest=DIGEST,
    chat_template_digest=DIGEST,
    linear={LAYER: (16, 12)},
    vocab_size=10,
    max_model_len=8,
    max_lora_rank=16,
)
CONFIG = {
    "peft_type": "LORA",
    "r": 8,
    "lora_alpha": 16,
    "bias": "none",
    "init_lora_weights": True,
    "rank_pattern": {},
    "modules_to_save": None,
}


def describe(folder: Path) -> AdapterManifest:
    """Return the manifest of the files in `folder` as they are."""
    tensors = {name: entry.shape for name, entry in read_header(folder / ADAPTER_WEIGHTS).items()}
    files = {path.name: file_entry(path) for path in folder.iterdir()}
    return manifest(version(1)).model_copy(update={"tensors": tensors, "files": files})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file(
        {A: np.ones((8, 12), np.float32), B: np.ones((16, 8), np.float32)},
        tmp_path / ADAPTER_WEIGHTS,
    )
    (tmp_path / ADAPTER_CONFIG).write_text(json.dumps(CONFIG))
    (tmp_path / PROBES).write_bytes(SOUND_PROBES.to_json())
    return tmp_path


def test_a_sound_adapter_passes(folder: Path) -> None:
    told = describe(folder)
    check_manifest(told, BASE)
    check_sizes(told, {path.name: path.stat().st_size for path in folder.iterdir()}, 10**6)
    assert check_files(folder, told, BASE) == SOUND_PROBES


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"base_model_digest": f"sha256:{'b' * 64}"}, "BASE_MISMATCH"),
        ({"chat_template_digest": f"sha256:{'b' * 64}"}, "TEMPLATE_MISMATCH"),
        ({"rank": 32}, "RANK_TOO_HIGH"),
        ({"rank": 7}, "RANK_TOO_HIGH"),
        ({"files": {}}, "MANIFEST_INVALID"),
        ({"target_modules": ("v_proj",)}, "TENSOR_MISMATCH"),
        ({"tensors": {}}, "TENSOR_MISMATCH"),
        ({"tensors": {A: (8, 12)}}, "TENSOR_MISMATCH"),
        ({"tensors": {A: (8, 11), B: (16, 8)}}, "TENSOR_MISMATCH"),
        ({"tensors": {A: (8, 12), B: (16, 16)}}, "TENSOR_MISMATCH"),
        ({"tensors": {A.replace("base_model.model.", ""): (8, 12)}}, "TENSOR_MISMATCH"),
        ({"tensors": {A.replace("layers.0", "layers.9"): (8, 12)}}, "TENSOR_MISMATCH"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    folder: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(AdapterRefused) as caught:
        check_manifest(describe(folder).model_copy(update=changes), BASE)
    assert caught.value.reason == reason


def test_sizes_are_compared_before_anything_is_fetched(folder: Path) -> None:
    told = describe(folder)
    stored = {path.name: path.stat().st_size for path in folder.iterdir()}
    for wrong, limit, reason in (
        (stored | {PROBES: 10**12}, 10**6, "DIGEST_MISMATCH"),
        ({}, 10**6, "DIGEST_MISMATCH"),
        (stored, 10, "MANIFEST_INVALID"),
    ):
        with pytest.raises(AdapterRefused) as caught:
            check_sizes(told, wrong, limit)
        assert caught.value.reason == reason


@pytest.mark.parametrize("name", [ADAPTER_CONFIG, ADAPTER_WEIGHTS, PROBES])
def test_bytes_that_changed_are_refused(folder: Path, name: str) -> None:
    told = describe(folder)
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(AdapterRefused) as caught:
        check_files(folder, told, BASE)
    assert caught.value.reason == "DIGEST_MISMATCH"


@pytest.mark.parametrize(
    "change",
    [
        {"peft_type": "LOHA"},
        {"r": 16},
        {"lora_alpha": 8},
        {"use_rslora": True},
        {"bias": "all"},
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"rank_pattern": {"q_proj": 4}},
        {"init_lora_weights": "pissa"},
    ],
    ids=str,
)
def test_a_config_that_is_not_served_is_refused(folder: Path, change: dict[str, Any]) -> None:
    (folder / ADAPTER_CONFIG).write_text(json.dumps(CONFIG | change))
    with pytest.raises(AdapterRefused) as caught:
        check_files(folder, describe(folder), BASE)
    assert caught.value.reason == "CONFIG_UNSUPPORTED"
    assert next(iter(change)) in caught.value.message


@pytest.mark.parametrize("text", ["{", "[]", "null", "[" * 100_000])
def test_a_config_that_is_no_object_is_refused(folder: Path, text: str) -> None:
    (folder / ADAPTER_CONFIG).write_text(text)
    with pytest.raises(AdapterRefused) as caught:
        check_files(folder, describe(folder), BASE)
    assert caught.value.reason == "CONFIG_UNSUPPORTED"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(folder: Path, value: float) -> None:
    weights = np.ones((16, 8), np.float32)
    weights[-1, -1] = value
    save_file({A: np.ones((8, 12), np.float32), B: weights}, folder / ADAPTER_WEIGHTS)
    with pytest.raises(AdapterRefused) as caught:
        check_files(folder, describe(folder), BASE)
    assert caught.value.reason == "NOT_FINITE"


def test_integers_are_refused(folder: Path) -> None:
    tensors = {A: np.ones((8, 12), np.int32), B: np.ones((16, 8), np.int32)}
    save_file(tensors, folder / ADAPTER_WEIGHTS)
    with pytest.raises(AdapterRefused) as caught:
        check_files(folder, describe(folder), BASE)
    assert caught.value.reason == "TENSOR_MISMATCH"


@pytest.mark.parametrize(
    ("ids", "logprob"), [((5, 10), -1.0), ((-1, 5), -1.0), ((1,) * 8, -1.0), ((5, 6), np.nan)]
)
def test_probes_the_engine_could_not_replay_are_refused(
    folder: Path, ids: tuple[int, ...], logprob: float
) -> None:
    values = (float(logprob),) * (len(ids) - 1)
    sequence = {"token_ids": ids, "base_logprobs": values, "adapter_logprobs": values}
    (folder / PROBES).write_text(json.dumps({"sequences": [sequence]}))
    with pytest.raises(AdapterRefused) as caught:
        check_files(folder, describe(folder), BASE)
    assert caught.value.reason == "PROBES_INVALID"


def probes(base: float, adapter: float) -> Probes:
    sequence = ProbeSequence(
        token_ids=(1, 2, 3), base_logprobs=(base, base), adapter_logprobs=(adapter, adapter)
    )
    return Probes(sequences=(sequence,))


@pytest.mark.parametrize(
    ("told", "served", "reason"),
    [
        # (base, adapter) as training saw them and as the engine serves them; floor 0.02.
        ((-2.0, -1.0), (-2.0, -1.0), None),
        ((-2.0, -1.0), (-2.0, -1.19), None),
        ((-2.0, -1.0), (-2.0, -1.21), "PROBE_MISMATCH"),
        ((-2.0, -1.0), (-2.0, -1.995), "EFFECT_ABSENT"),
        ((-2.0, -1.0), (-2.0, float("nan")), "PROBE_MISMATCH"),
        # An adapter without effect is served if the engine sees none either.
        ((-2.0, -1.99), (-2.0, -2.0), None),
        ((-2.0, -1.99), (-2.0, -1.9), "PROBE_MISMATCH"),
        # What the base's own logprobs differ by does not count: the adapter's are compared.
        ((-2.0, -1.0), (-2.5, -1.0), None),
        # An effect as small as rounding: the base shows how much rounding there is.
        ((-2.0, -1.9), (-1.97, -1.82), None),
        ((-2.0, -1.9), (-1.97, -1.8), "PROBE_MISMATCH"),
        ((-2.0, -1.9), (-2.0, -2.0), "EFFECT_ABSENT"),
        # A base that is far off excuses nothing.
        ((-2.0, -1.9), (-3.0, -1.6), "PROBE_MISMATCH"),
    ],
)
def test_the_verdict_on_probes(
    told: tuple[float, float], served: tuple[float, float], reason: str | None
) -> None:
    served_base, served_adapter = ([[value, value]] for value in served)
    if reason is None:
        judge_probes(probes(*told), served_base, served_adapter, 0.02)
        return
    with pytest.raises(AdapterRefused) as caught:
        judge_probes(probes(*told), served_base, served_adapter, 0.02)
    assert caught.value.reason == reason


def test_linear_layers_are_neither_embeddings_nor_the_head() -> None:
    shapes = {
        "model.embed_tokens.weight": (10, 4),
        "lm_head.weight": (10, 4),
        "model.layers.0.mlp.up_proj.weight": (8, 4),
        "model.layers.0.mlp.up_proj.bias": (8,),
        "model.layers.0.input_layernorm.weight": (4,),
    }
    assert linear_layers(shapes) == {"model.layers.0.mlp.up_proj": (8, 4)}


def header(entries: object, data: bytes = b"") -> bytes:
    text = entries.encode() if isinstance(entries, str) else json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 8,
        header("[]"),
        header("{"),
        header({"a": ENTRY}),
        header({"a": ENTRY}, b"12345678"),
        header({"a": ENTRY | {"shape": [2]}}, b"1234"),
        header({"a": ENTRY | {"data_offsets": [4, 0]}}, b"1234"),
        header({"a": ENTRY, "b": ENTRY}, b"1234"),
        header({"a": 1}),
        header(f'{{"a": {json.dumps(ENTRY)}, "a": {json.dumps(ENTRY)}}}', b"1234"),
    ],
)
def test_a_file_that_is_no_safetensors_is_an_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ValueError, match=r"\w"):
        read_header(tmp_path / "x")


@pytest.mark.parametrize(
    ("dtype", "finite", "infinite"),
    [("BF16", b"\x7f\x7f", b"\x80\x7f"), ("F16", b"\xff\x7b", b"\x00\x7c")],
)
def test_16_bit_floats_are_checked_by_their_bits(
    tmp_path: Path, dtype: str, finite: bytes, infinite: bytes
) -> None:
    def check(value: bytes) -> bool:
        path = tmp_path / value.hex()
        path.write_bytes(
            header({"a": {"dtype": dtype, "shape": [2], "data_offsets": [0, 4]}}, b"\0\0" + value)
        )
        return all_finite(path, read_header(path)["a"])

    assert check(finite)
    assert not check(infinite)
    assert not check(b"\xff\xff")
