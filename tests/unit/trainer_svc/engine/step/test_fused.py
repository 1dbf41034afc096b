from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from tests.unit.trainer_svc.engine.tiny import examples, make_tokenizer
from trainer_svc.engine.base import load_base
from trainer_svc.engine.step.bank import AdapterBank, Share
from trainer_svc.jobs.model import LoraSpec

FAMILIES: dict[str, type[PretrainedConfig]] = {
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
}


def make(folder: Path, family: str, **changes: Any) -> str:
    tokenizer = make_tokenizer()
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": None,
        "initializer_range": 0.15,
        "sliding_window": None,
        **changes,
    }
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family](**settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_peft_on_the_plain_model(tmp_path: Path, family: str) -> None:
    path = make(tmp_path / "base", family)
    bank = AdapterBank(load_base(path, "cpu"))
    adapter = bank.attach("job", LoraSpec(rank=8, alpha=4.0), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapter.parameters.values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    batch = [*examples(3), *examples(1), *examples(1)]
    loss = bank.forward({"job": Share(batch)})["job"].total
    loss.backward()  # type: ignore[no-untyped-call]
    adapter.config.save_pretrained(str(tmp_path))
    save_file(adapter.tensors(torch.float32), tmp_path / "adapter_model.safetensors")
    plain = AutoModelForCausalLM.from_pretrained(path)
    peft = PeftModel.from_pretrained(plain, tmp_path, is_trainable=True)
    expected = torch.zeros(())
    for example in batch:
        logits = peft(input_ids=example.token_ids.unsqueeze(0)).logits[0, :-1]
        kept = example.trained[1:]
        expected += cross_entropy(logits[kept], example.token_ids[1:][kept], reduction="sum")
    expected.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    for name, parameter in peft.named_parameters():
        if parameter.requires_grad:
            found = adapter.parameters[name.replace(".default", "")].grad
            assert found is not None
            assert (found - parameter.grad).norm() <= 1e-5 * parameter.grad.norm(), name


def replaced(bank: AdapterBank) -> set[str]:
    return {
        name.rpartition(".")[2]
        for name, module in bank.base.decoder.named_modules()
        if "forward" in vars(module)
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_known_is_replaced(tmp_path: Path, family: str) -> None:
    found = replaced(AdapterBank(load_base(make(tmp_path, family), "cpu")))
    norms = {"input_layernorm", "post_attention_layernorm", "norm"}
    if family == "qwen3":
        assert found == {"mlp", "q_norm", "k_norm", *norms}
    else:
        assert found == {"mlp", "self_attn", *norms}


def test_another_activation_is_the_models_own(tmp_path: Path) -> None:
    bank = AdapterBank(load_base(make(tmp_path, "llama", hidden_act="gelu"), "cpu"))
    assert "mlp" not in replaced(bank)


def test_attention_over_a_mask_is_the_models_own(tmp_path: Path) -> None:
    path = make(tmp_path, "mistral", sliding_window=16)
    assert AutoConfig.from_pretrained(path).sliding_window == 16
    assert "self_attn" not in replaced(AdapterBank(load_base(path, "cpu")))


def test_a_module_of_another_type_is_the_models_own(tmp_path: Path) -> None:
    base = load_base(make(tmp_path, "llama"), "cpu")

    class Offset(LlamaRMSNorm):  # type: ignore[misc]
        """A norm that adds one to its weight."""

    base.decoder.norm.__class__ = Offset
    assert "norm" not in replaced(AdapterBank(base))
