"""Each family is trained exactly, packed or one by one, or refused; PEFT is the reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from tailorbird.errors import FailedPrecondition
from tailorbird.servable import LINEAR_MODULES
from tests.families import ALONE, FAMILIES, PACKED, REFUSED, make_family
from tests.unit.trainer_svc.engine.tiny import examples
from trainer_svc.engine.base import load_base
from trainer_svc.engine.data.tokens import Example
from trainer_svc.engine.step.bank import AdapterBank, Share
from trainer_svc.jobs.model import LoraSpec

JOB = "tenants/acme/jobs/one"
LORA = LoraSpec(rank=4, alpha=8.0)


def scrambled(bank: AdapterBank) -> Any:
    adapter = bank.attach(JOB, LORA, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapter.parameters.values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return adapter


def pefts_gradients(
    folder: Path, adapter: Any, batch: Sequence[Example]
) -> dict[str, torch.Tensor]:
    """Return the gradients of the summed loss, each record run by itself."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    config = LoraConfig(
        r=LORA.rank, lora_alpha=8, target_modules=list(adapter.config.target_modules)
    )
    peft = get_peft_model(model, config)
    set_peft_model_state_dict(peft, adapter.tensors(torch.float32))
    peft.eval()
    for example in batch:
        logits = peft(input_ids=example.token_ids.unsqueeze(0)).logits[0, :-1]
        kept = example.trained[1:]
        loss = cross_entropy(logits[kept], example.token_ids[1:][kept], reduction="sum")
        loss.backward()  # type: ignore[no-untyped-call]
    return {
        name.replace(".default", ""): parameter.grad
        for name, parameter in peft.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("name", PACKED | ALONE)
def test_gradients_are_those_of_each_record_alone(name: str, tmp_path: Path) -> None:
    folder = make_family(FAMILIES[name], tmp_path / "base")
    base = load_base(str(folder), "cpu")
    assert base.packs == (name in PACKED)
    bank = AdapterBank(base)
    adapter = scrambled(bank)
    assert set(adapter.config.target_modules) <= LINEAR_MODULES
    batch = [*examples(4), *examples(1, seed=1, longest=60)]
    bank.forward({JOB: Share(batch)})[JOB].total.backward()  # type: ignore[no-untyped-call]
    expected = pefts_gradients(folder, adapter, batch)
    assert adapter.parameters.keys() == expected.keys()
    for parameter_name, parameter in adapter.parameters.items():
        reference = expected[parameter_name]
        assert float(reference.norm()) > 0
        error = (parameter.grad - reference).norm() / reference.norm()
        assert error < 1e-5, parameter_name


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_is_refused(name: str, tmp_path: Path) -> None:
    folder = make_family(REFUSED[name], tmp_path / "base")
    with pytest.raises((FailedPrecondition, ValueError)) as caught:
        load_base(str(folder), "cpu")
    if isinstance(caught.value, FailedPrecondition):
        assert caught.value.reason == "BASE_UNSUPPORTED"
