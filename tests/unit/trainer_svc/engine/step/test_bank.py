from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from tailorbird.errors import InvalidArgument
from tests.unit.trainer_svc.engine.tiny import examples, make_base
from trainer_svc.engine.attention import PACKED
from trainer_svc.engine.base import Base, load_base
from trainer_svc.engine.data.tokens import Example
from trainer_svc.engine.step.bank import Adapter, AdapterBank, Dropout, Share, StepLoss
from trainer_svc.engine.step.lora import JoinedLinear
from trainer_svc.jobs.model import LoraSpec

LORA = LoraSpec(rank=8, alpha=16.0)
JOB = "tenants/acme/jobs/one"
OTHER = "tenants/acme/jobs/two"


def loss_of(bank: AdapterBank, batch: list[Example], dropout: Dropout | None = None) -> StepLoss:
    return bank.forward({JOB: Share(batch, dropout)})[JOB]


def scramble(bank: AdapterBank, lora: LoraSpec = LORA, job: str = JOB) -> Adapter:
    adapter = bank.attach(job, lora, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapter.parameters.values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return adapter


def save_adapter(adapter: Adapter, folder: Path) -> Path:
    folder.mkdir()
    adapter.config.save_pretrained(str(folder))
    save_file(adapter.tensors(torch.float32), folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize("attention", [PACKED, "sdpa"])
def test_packed_records_do_not_see_each_other(bank: AdapterBank, attention: str) -> None:
    batch = examples(7)
    decoder_config = bank.base.decoder.config
    before = decoder_config._attn_implementation
    decoder_config._attn_implementation = attention
    try:
        sequences = [example.token_ids for example in batch]
        together = bank.logprobs(sequences, job=None)
        alone = [bank.logprobs([ids], job=None)[0] for ids in sequences]
    finally:
        decoder_config._attn_implementation = before
    assert before == PACKED
    for packed, separate in zip(together, alone, strict=True):
        torch.testing.assert_close(packed, separate, atol=1e-5, rtol=0)


def test_logprobs_are_those_of_the_plain_model(bank: AdapterBank, base: Base) -> None:
    ids = examples(1)[0].token_ids
    plain = AutoModelForCausalLM.from_pretrained(base.decoder.config._name_or_path)
    with torch.no_grad():
        expected = plain(input_ids=ids.unsqueeze(0)).logits[0].log_softmax(-1)
    expected = expected[:-1].gather(1, ids[1:, None]).squeeze(1)
    (found,) = bank.logprobs([ids], job=None)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("targets", [(), ("down_proj", "q_proj")])
def test_shapes_are_told_before_there_is_an_adapter(
    bank: AdapterBank, targets: tuple[str, ...]
) -> None:
    lora = LORA.model_copy(update={"target_modules": targets})
    told = bank.shapes(lora)
    parameters = bank.attach(JOB, lora, seed=0).parameters
    bank.detach(JOB)
    assert told == {name: tuple(matrix.shape) for name, matrix in parameters.items()}


def test_loss_counts_trained_tokens_alone(bank: AdapterBank) -> None:
    bank.attach(JOB, LORA, seed=0)
    batch = examples(5)
    loss = loss_of(bank, batch)
    expected = 0.0
    for example in batch:
        (logprobs,) = bank.logprobs([example.token_ids], job=None)
        expected -= float(logprobs[example.trained[1:]].sum())
    bank.detach(JOB)
    assert float(loss.total.detach()) == pytest.approx(expected, rel=1e-5)
    assert loss.trained_tokens == sum(int(example.trained.sum()) for example in batch)
    assert loss.tokens == sum(len(example.token_ids) for example in batch)


def test_gradients_are_those_of_peft_itself(base: Base, tmp_path: Path) -> None:
    bank = AdapterBank(base)
    adapter = scramble(bank, LoraSpec(rank=8, alpha=4.0, use_rslora=True))
    batch = examples(4)
    loss_of(bank, batch).total.backward()  # type: ignore[no-untyped-call]
    found = {name: p.grad.clone() for name, p in adapter.parameters.items() if p.grad is not None}
    folder = save_adapter(adapter, tmp_path / "saved")
    plain = AutoModelForCausalLM.from_pretrained(base.decoder.config._name_or_path)
    peft = PeftModel.from_pretrained(plain, folder, is_trainable=True)
    for example in batch:
        logits = peft(input_ids=example.token_ids.unsqueeze(0)).logits[0, :-1]
        kept = example.trained[1:]
        cross_entropy(logits[kept], example.token_ids[1:][kept], reduction="sum").backward()  # type: ignore[no-untyped-call]
    expected = {
        name.replace(".default", ""): p.grad
        for name, p in peft.named_parameters()
        if p.grad is not None
    }
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        error = (gradient - expected[name]).norm() / expected[name].norm()
        assert error < 1e-5, name


def test_the_seed_alone_decides_the_first_weights(bank: AdapterBank) -> None:
    drawn = []
    for seed, noise in ((3, 0), (3, 99), (4, 0)):
        torch.manual_seed(noise)
        adapter = bank.attach(JOB, LORA, seed=seed)
        drawn.append(adapter.tensors(torch.float32))
        bank.detach(JOB)
        assert torch.initial_seed() == noise
    assert all(torch.equal(value, drawn[1][name]) for name, value in drawn[0].items())
    assert any(not torch.equal(value, drawn[2][name]) for name, value in drawn[0].items())


def test_a_new_adapter_changes_nothing(bank: AdapterBank) -> None:
    bank.attach(JOB, LORA, seed=0)
    ids = [example.token_ids for example in examples(3)]
    tuned = bank.logprobs(ids, job=JOB)
    base = bank.logprobs(ids, job=None)
    bank.detach(JOB)
    assert all(torch.equal(one, other) for one, other in zip(tuned, base, strict=True))


def test_every_linear_layer_of_the_decoder_is_a_target(bank: AdapterBank) -> None:
    assert bank.target_modules == [
        "down_proj",
        "gate_proj",
        "k_proj",
        "o_proj",
        "q_proj",
        "up_proj",
        "v_proj",
    ]
    adapter = bank.attach(JOB, LoraSpec(rank=8, target_modules=("v_proj",)), seed=0)
    bank.detach(JOB)
    assert list(adapter.parameters) == [
        f"base_model.model.model.layers.{layer}.self_attn.v_proj.lora_{part}.weight"
        for layer in (0, 1)
        for part in "AB"
    ]


@pytest.mark.parametrize("name", ["lm_head", "embed_tokens", "c_attn"])
def test_an_unknown_target_is_named_with_what_there_is(bank: AdapterBank, name: str) -> None:
    with pytest.raises(InvalidArgument, match="q_proj") as caught:
        bank.attach(JOB, LoraSpec(rank=8, target_modules=("q_proj", name)), seed=0)
    assert caught.value.reason == "UNKNOWN_TARGET_MODULE"
    assert name in caught.value.message


def test_dropout_comes_from_its_seed(bank: AdapterBank) -> None:
    scramble(bank, LoraSpec(rank=8, dropout=0.5))
    batch = examples(3)
    losses = [
        float(loss_of(bank, batch, Dropout(seed, 0, range(3))).total.detach()) for seed in (1, 1, 2)
    ]
    quiet = [float(loss_of(bank, batch).total.detach()) for _ in range(2)]
    bank.detach(JOB)
    assert losses[0] == losses[1] != losses[2]
    assert quiet[0] == quiet[1] not in losses


def test_a_16_bit_base_trains_close_to_full_precision(tmp_path: Path) -> None:
    path = make_base(tmp_path / "half", torch.bfloat16)
    base = load_base(str(path), "cpu")
    assert base.dtype == torch.bfloat16
    bank = AdapterBank(base)
    adapter = scramble(bank)
    loss = loss_of(bank, examples(4))
    loss.total.backward()  # type: ignore[no-untyped-call]
    assert {p.grad.dtype for p in adapter.parameters.values() if p.grad is not None} == {
        torch.float32
    }
    exact = [bank.logprobs([e.token_ids], job=JOB)[0][e.trained[1:]] for e in examples(4)]
    assert float(loss.total.detach()) == pytest.approx(-float(torch.cat(exact).sum()), rel=0.01)


def test_another_bank_cannot_take_the_base(bank: AdapterBank) -> None:
    with pytest.raises(ValueError, match="another bank"):
        AdapterBank(bank.base)


def test_a_job_is_attached_once(bank: AdapterBank) -> None:
    adapter = scramble(bank)
    with pytest.raises(ValueError, match="attached"):
        bank.attach(JOB, LORA, seed=1)
    assert loss_of(bank, examples(2)).total.requires_grad
    assert bank.attach(OTHER, LORA, seed=0) is not adapter


def test_siblings_are_one_product(bank: AdapterBank) -> None:
    layers = [m for m in bank.base.model.modules() if isinstance(m, JoinedLinear)]
    assert [len(layer.branches) for layer in layers] == [3, 1, 2, 1] * 2


def test_siblings_of_unlike_inputs_stay_alone(tmp_path: Path) -> None:
    base = load_base(str(make_base(tmp_path / "biased", attention_bias=True)), "cpu")
    attention: Any = base.decoder.layers[0].self_attn
    attention.k_proj.bias = None
    bank = AdapterBank(base)
    first = [m for m in base.decoder.layers[0].self_attn.modules() if isinstance(m, JoinedLinear)]
    assert [len(layer.branches) for layer in first] == [1] * 4
    scramble(bank)
    assert torch.isfinite(loss_of(bank, examples(2)).total)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_base_alone_is_the_plain_model_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    path = make_base(tmp_path / "plain", dtype)
    bank = AdapterBank(load_base(str(path), "cpu"))
    scramble(bank)
    loss_of(bank, examples(2)).total.backward()  # type: ignore[no-untyped-call]
    ids = examples(1)[0].token_ids
    plain = AutoModelForCausalLM.from_pretrained(
        path, dtype=dtype, attn_implementation=bank.base.decoder.config._attn_implementation
    )
    with torch.no_grad():
        hidden = plain.get_decoder()(
            input_ids=ids[None], use_cache=False, segment_lengths=[len(ids)]
        ).last_hidden_state[0]
        logits = plain.get_output_embeddings()(hidden[:-1]).float()
    (found,) = bank.logprobs([ids], job=None)
    assert torch.equal(found, -cross_entropy(logits, ids[1:], reduction="none"))


def test_logprobs_with_an_adapter_are_those_of_peft(bank: AdapterBank, tmp_path: Path) -> None:
    adapter = scramble(bank, LoraSpec(rank=8, alpha=4.0, target_modules=("k_proj", "down_proj")))
    plain = AutoModelForCausalLM.from_pretrained(bank.base.decoder.config._name_or_path)
    peft = PeftModel.from_pretrained(plain, save_adapter(adapter, tmp_path / "saved"))
    for example in examples(3):
        ids = example.token_ids
        with torch.no_grad():
            logits = peft(input_ids=ids[None]).logits[0, :-1]
        expected = -cross_entropy(logits, ids[1:], reduction="none")
        (found,) = bank.logprobs([ids], job=JOB)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_logprobs_are_computed_layer_by_layer(
    bank: AdapterBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    scramble(bank)

    def joined(*_: object) -> torch.Tensor:
        pytest.fail("layers were computed as one, which gives other bits at some widths")

    monkeypatch.setattr(JoinedLinear, "forward", joined)
    for job in (None, JOB):
        assert len(bank.logprobs([examples(1)[0].token_ids], job=job)) == 1


def test_records_that_do_not_pack_run_one_by_one(base: Base) -> None:
    bank = AdapterBank(replace(base, why_alone="asked"))
    adapter = scramble(bank, LoraSpec(rank=8, dropout=0.3))
    scramble(bank, LORA, OTHER)
    lengths: list[int] = []
    base.decoder.register_forward_pre_hook(
        lambda _, __, inputs: lengths.append(inputs["input_ids"].shape[1]), with_kwargs=True
    )
    shares = {
        OTHER: Share(examples(2, seed=1)),
        JOB: Share(examples(3), Dropout(0, 0, (5, 6, 7))),
    }
    results = []
    for packs in (False, True):
        bank.base = replace(base, why_alone="" if packs else "asked")
        total = bank.forward(shares)[JOB].total
        total.backward()  # type: ignore[no-untyped-call]
        results.append(flat_gradients(adapter))
    assert lengths[:-1] == [len(e.token_ids) for s in shares.values() for e in s.examples]
    assert lengths[-1] == sum(lengths[:-1])
    torch.testing.assert_close(results[0], results[1], atol=1e-6, rtol=1e-4)


def flat_gradients(adapter: Adapter) -> torch.Tensor:
    found = [p.grad.flatten() for p in adapter.parameters.values() if p.grad is not None]
    for parameter in adapter.parameters.values():
        parameter.grad = None
    return torch.cat(found)
