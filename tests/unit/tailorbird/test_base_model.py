"""The base model's identity: what changes its digest, and what is no base model."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tailorbird.base_model import BaseModelFiles, load_base_model
from tailorbird.errors import InvalidArgument
from tailorbird.servable import LINEAR_MODULES

ONE = torch.ones(1)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "my-base"
    folder.mkdir()
    config = {"max_position_embeddings": 512, "hidden_size": 64}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


def load(model: Path, tmp_path: Path) -> BaseModelFiles:
    return load_base_model(str(model), tmp_path / "cache")


def test_a_folder_is_a_base_model(model: Path, tmp_path: Path) -> None:
    base = load(model, tmp_path)
    assert (base.name, base.path) == ("my-base", model)
    assert (base.max_sequence_length, base.hidden_size) == (512, 64)
    assert base.digest.startswith("sha256:")
    assert load(model, tmp_path) == base
    assert load_base_model(str(model), tmp_path / "cache", "other").name == "other"


def test_a_base_tells_its_architecture(model: Path, tmp_path: Path) -> None:
    assert load(model, tmp_path).architecture == ""
    config = json.loads((model / "config.json").read_text())
    for named, told in ((["OPTForCausalLM"], "OPTForCausalLM"), ([], ""), ("x", "")):
        (model / "config.json").write_text(json.dumps(config | {"architectures": named}))
        assert load(model, tmp_path).architecture == told


def test_a_base_without_a_chat_template_is_told(model: Path, tmp_path: Path) -> None:
    assert load(model, tmp_path).has_chat_template
    (model / "chat_template.jinja").unlink()
    assert not load(model, tmp_path).has_chat_template
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    assert load(model, tmp_path).has_chat_template
    (model / "tokenizer_config.json").write_text("{}")
    # transformers looks here, too: whether there is a template in it, a worker finds out.
    (model / "additional_chat_templates").mkdir()
    assert load(model, tmp_path).has_chat_template


def test_a_base_tells_which_layers_its_weights_have(model: Path, tmp_path: Path) -> None:
    assert load(model, tmp_path).linear_modules == LINEAR_MODULES, "what nobody can read has all"
    for file, layer in (("model", "self_attn.q_proj"), ("model-2", "mlp.gate_up_proj")):
        tensors = {f"model.layers.0.{layer}.weight": torch.zeros(2, 2), "lm_head.weight": ONE}
        save_file(tensors, model / f"{file}.safetensors")
    assert load(model, tmp_path).linear_modules == {"q_proj", "gate_up_proj"}


@pytest.mark.parametrize(
    "file", ["config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"]
)
def test_every_file_that_matters_changes_the_digest(model: Path, tmp_path: Path, file: str) -> None:
    before = load(model, tmp_path)
    content = (model / file).read_text()
    (model / file).write_text(content + " ")
    after = load(model, tmp_path)
    assert after.digest != before.digest
    changed = after.chat_template_digest != before.chat_template_digest
    assert changed == (file == "chat_template.jinja")


def test_weights_with_the_old_ones_size_and_time_change_the_digest(
    model: Path, tmp_path: Path
) -> None:
    weights = model / "model.safetensors"
    os.utime(weights, ns=(0, 0))
    before = load(model, tmp_path)
    # As an image does that is built anew.
    weights.write_bytes(b"WEIGHTS")
    os.utime(weights, ns=(0, 0))
    assert load(model, tmp_path).digest != before.digest


def test_other_files_do_not(model: Path, tmp_path: Path) -> None:
    before = load(model, tmp_path)
    (model / "README.md").write_text("new")
    assert load(model, tmp_path) == before


def test_a_lost_or_broken_cache_changes_nothing(model: Path, tmp_path: Path) -> None:
    before = load(model, tmp_path)
    (tmp_path / "cache" / "base-digests.json").write_text("{broken")
    assert load(model, tmp_path) == before


def test_the_template_may_stand_in_the_tokenizers_configuration(
    model: Path, tmp_path: Path
) -> None:
    (model / "chat_template.jinja").unlink()
    without = load(model, tmp_path)
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": "x"}))
    assert load(model, tmp_path).chat_template_digest != without.chat_template_digest


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_without_a_model_is_refused(model: Path, tmp_path: Path, missing: str) -> None:
    (model / missing).unlink()
    with pytest.raises(InvalidArgument, match="base_model"):
        load(model, tmp_path)


@pytest.mark.parametrize("config", ["", "[]", "{}", '{"hidden_size": "x"}'])
def test_a_broken_configuration_is_refused(model: Path, tmp_path: Path, config: str) -> None:
    (model / "config.json").write_text(config)
    with pytest.raises(InvalidArgument, match="base_model"):
        load(model, tmp_path)


def test_what_is_nowhere_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InvalidArgument, match=r"there is no folder .*nowhere"):
        load_base_model(str(tmp_path / "nowhere"), tmp_path / "cache")
