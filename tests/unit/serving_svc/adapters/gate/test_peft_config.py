from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig

from serving_svc.adapters.gate.peft_config import (
    CHECKED_KEYS,
    HARMLESS_KEYS,
    MAX_CONFIG_BYTES,
    LoraShape,
    read_config,
)
from tailorbird.errors import AdapterRefused
from tests.unit.serving_svc.adapters.gate.adapter_folder import CONFIG, is_small

DEEP = b"[" * 100_000

# Fields of PEFT's LoraConfig that must be unset: each changes the computation, and vLLM refuses or
# ignores it. A field that a newer PEFT adds belongs here or among the harmless ones.
UNSET = {
    "alora_invocation_tokens",
    "alpha_pattern",
    "arrow_config",
    "ensure_weight_tying",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "megatron_config",
    "modules_to_save",
    "monteclora_config",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "velora_config",
}


def write(folder: Path, config: object) -> Path:
    data = config if isinstance(config, bytes) else json.dumps(config).encode()
    (folder / "x").write_bytes(data)
    return folder / "x"


def refusal(folder: Path, config: object) -> AdapterRefused:
    with pytest.raises(AdapterRefused) as caught:
        read_config(write(folder, config))
    assert caught.value.reason == "CONFIG_UNSUPPORTED"
    assert not caught.value.retryable
    assert is_small(caught.value)
    return caught.value


def test_every_field_of_peft_is_known() -> None:
    config = LoraConfig(r=8, target_modules=["q_proj"]).to_dict()
    assert set(config) == CHECKED_KEYS | HARMLESS_KEYS | UNSET


def test_what_peft_writes_by_default_is_served(tmp_path: Path) -> None:
    config = LoraConfig(r=7, lora_alpha=3, target_modules=["q_proj"], use_rslora=True).to_dict()
    path = write(tmp_path, json.dumps(config, default=sorted).encode())
    assert read_config(path) == LoraShape(7, 3.0, use_rslora=True)


@pytest.mark.parametrize(
    "change",
    [
        {"base_model_name_or_path": "somebody/else"},
        {"target_modules": "all-linear"},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": False},
        {"init_lora_weights": None},
        {"lora_dropout": 0.1},
        {"of_a_newer_peft": None},
        {"of_a_newer_peft": False},
        {"of_a_newer_peft": {}},
    ],
    ids=str,
)
def test_what_changes_nothing_is_served(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / "plain").mkdir()
    plain = read_config(write(tmp_path / "plain", CONFIG))
    assert read_config(write(tmp_path, CONFIG | change)) == plain


def test_alpha_and_its_scaling_are_read(tmp_path: Path) -> None:
    found = read_config(write(tmp_path, CONFIG | {"lora_alpha": 0.5, "use_rslora": True}))
    assert (found.alpha, found.use_rslora) == (0.5, True)


@pytest.mark.parametrize(
    "change",
    [
        {"peft_type": "LOHA"},
        {"peft_type": "lora"},
        {"peft_type": ["LORA"]},
        {"peft_type": None},
        {"r": True},
        {"r": 8.0},
        {"r": "8"},
        {"r": 0},
        {"r": -8},
        {"r": None},
        {"lora_alpha": True},
        {"lora_alpha": "16"},
        {"lora_alpha": None},
        {"lora_alpha": 10**400},
        {"lora_alpha": -(10**400)},
        {"use_rslora": 1},
        {"use_rslora": "true"},
        {"use_rslora": None},
        {"bias": "all"},
        {"bias": "lora_only"},
        {"bias": None},
        {"target_modules": None},
        {"target_modules": {"q_proj": 1}},
        {"target_modules": ["q_proj", 1]},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "pissa_niter_16"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "corda"},
        {"init_lora_weights": "loftq"},
        {"init_lora_weights": "lora_ga"},
        {"init_lora_weights": "Gaussian"},
        {"init_lora_weights": ["gaussian"]},
        {"init_lora_weights": 1},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["score"]},
        {"rank_pattern": {"q_proj": 4}},
        {"alpha_pattern": {"q_proj": 4}},
        {"vllm_lora_scaling_factor": 5.0},
        {"of_a_newer_peft": True},
        {"x" * 1000: "y" * 10_000},
        {"\ud800": "\ud800"},
        *({key: True} for key in sorted(UNSET)),
    ],
    ids=lambda change: str(change)[:60].encode("ascii", "replace").decode(),
)
def test_what_changes_the_computation_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    error = refusal(tmp_path, CONFIG | change)
    assert ascii(next(iter(change))).strip("'")[:20] in error.message


@pytest.mark.parametrize("key", ["peft_type", "r", "lora_alpha", "target_modules"])
def test_what_the_engine_needs_must_be_there(tmp_path: Path, key: str) -> None:
    error = refusal(tmp_path, {name: value for name, value in CONFIG.items() if name != key})
    assert key in error.message


SOUND = json.dumps(CONFIG).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"\xef\xbb\xbf" + SOUND,
        SOUND.decode().encode("utf-16"),
        DEEP,
        SOUND[:-1] + b', "x": ' + DEEP,
        SOUND[:-1] + b', "r": 8}',
        SOUND[:-1] + b', "lora_dropout": 1e999}',
        SOUND[:-1] + b', "lora_dropout": NaN}',
        SOUND[:-1] + b', "lora_dropout": ' + b"9" * 5000 + b"}",
        SOUND + b" " * MAX_CONFIG_BYTES,
    ],
    ids=lambda data: str(data[-40:]),
)
def test_a_config_that_is_no_sound_object_is_refused(tmp_path: Path, data: bytes) -> None:
    assert refusal(tmp_path, data).message


@pytest.mark.parametrize("depth", [5, 900])
def test_a_deep_value_is_quoted_in_few_characters(tmp_path: Path, depth: int) -> None:
    error = refusal(tmp_path, SOUND[:-1] + b', "x": ' + b"[" * depth + b"1" + b"]" * depth + b"}")
    assert len(error.message) < 300


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    data=st.binary(max_size=50)
    | st.dictionaries(st.sampled_from(sorted(CHECKED_KEYS | UNSET)), json_values).map(
        lambda changes: json.dumps(CONFIG | changes).encode()
    )
)
def test_no_config_raises_anything_but_a_refusal(tmp_path: Path, data: bytes) -> None:
    try:
        found = read_config(write(tmp_path, data))
    except AdapterRefused:
        return
    assert found.rank >= 1
