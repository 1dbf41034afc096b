from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM

from tests.unit.trainer_svc.engine.tiny import make_base
from trainer_svc.engine.base import load_base
from trainer_svc.engine.step.adapter import Stack
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.jobs.model import LoraSpec


@pytest.mark.parametrize(
    "lora",
    [
        LoraSpec(),
        LoraSpec(rank=8, alpha=12.5, use_rslora=True, dropout=0.1),
        LoraSpec(rank=64, alpha=16.0, target_modules=("v_proj", "q_proj")),
    ],
)
def test_it_is_what_peft_builds(bank: AdapterBank, base_path: str, lora: LoraSpec) -> None:
    adapter = bank.attach("job", lora, seed=0)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=list(lora.target_modules or bank.target_modules),
        lora_dropout=lora.dropout,
        use_rslora=lora.use_rslora,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base_path), config)
    expected = get_peft_model_state_dict(model)
    assert list(adapter.parameters) == sorted(expected)
    for name, parameter in adapter.parameters.items():
        assert parameter.shape == expected[name].shape
        assert parameter.dtype == torch.float32
    scales = {m.scaling["default"] for m in model.modules() if isinstance(m, LoraLayer)}
    stack = Stack([(adapter, 0)], torch.float32)
    factors = [factors for update in stack.updates.values() for factors in update.branches.values()]
    with torch.no_grad():
        for each in factors:
            each.b[0].fill_(1.0)
    stack.refresh()
    (scale,) = scales
    for each in factors:
        torch.testing.assert_close(each.scaled_b, torch.full_like(each.scaled_b, scale))
    ours, theirs = adapter.config.to_dict(), config.to_dict()
    ours["base_model_name_or_path"] = theirs["base_model_name_or_path"]
    assert ours == theirs
    assert adapter.size == sum(parameter.numel() for parameter in adapter.parameters.values())


def test_first_weights_have_pefts_spread(bank: AdapterBank) -> None:
    adapter = bank.attach("job", LoraSpec(rank=64), seed=0)
    for name, parameter in adapter.parameters.items():
        if "lora_B" in name:
            assert not parameter.any()
        else:
            bound = parameter.shape[1] ** -0.5
            assert 0.95 * bound < float(parameter.detach().abs().max()) <= bound


def test_a_kind_of_layer_is_a_target_only_where_all_of_it_can_be(tmp_path: Path) -> None:
    base = load_base(str(make_base(tmp_path / "odd")), "cpu")

    class Odd(torch.nn.Linear):
        """A layer whose product is its own."""

    odd = base.decoder.layers[1].mlp.down_proj
    odd.__class__ = Odd
    assert "down_proj" not in AdapterBank(base).target_modules
