from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from tailorbird.errors import InvalidArgument
from tests.unit.trainer_svc.engine.tiny import examples, make_base
from trainer_svc.engine.attention import PACKED
from trainer_svc.engine.base import Base, load_base
from trainer_svc.engine.step.bank import AdapterBank, StepLoss
from trainer_svc.jobs.model import LoraSpec

LORA = LoraSpec(rank=8, alpha=16.0)
JOB = "tenants/acme/jobs/one"


def loss_of(bank: AdapterBank, batch: Any, seeds: dict[str, int] | None = None) -> StepLoss:
    return bank.forward({JOB: batch}, dropout_seeds=seeds or {})[JOB]


def scramble(bank: AdapterBank, lora: LoraSpec = LORA) -> Any:
    adapter = bank.attach(JOB, lora, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapter.parameters.values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return adapter


@pytest.mark.parametrize("attention", [PACKED, "sdpa"])
def test_packed_records_do_not_see_each_other(bank: AdapterBank, attention: str) -> None:
    batch = examples(7)
    decoder_config = bank.base.decoder.config
    before = decoder_config._attn_implementation
    decoder_config._attn_implementation = attention
    try:
        sequences = [example.token_ids for example in batch]
        together = bank.logprobs(sequences, with_adapter=False)
        alone = [bank.logprobs([ids], with_adapter=False)[0] for ids in sequences]
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
    (found,) = bank.logprobs([ids], with_adapter=False)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_loss_counts_trained_tokens_alone(bank: AdapterBank) -> None:
    bank.attach(JOB, LORA, seed=0)
    batch = examples(5)
    loss = loss_of(bank, batch)
    expected = 0.0
    for example in batch:
        (logprobs,) = bank.logprobs([example.token_ids], with_adapter=False)
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
    adapter.model.save_pretrained(tmp_path)
    bank.detach(JOB)

    from peft import PeftModel

    plain = AutoModelForCausalLM.from_pretrained(base.decoder.config._name_or_path)
    peft = PeftModel.from_pretrained(plain, tmp_path, is_trainable=True)
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


def test_a_chunked_loss_is_the_same(base: Base) -> None:
    batch = examples(6)
    results = []
    for chunk_logits in (2**26, 300 * 5):
        bank = AdapterBank(base, chunk_logits=chunk_logits)
        adapter = scramble(bank)
        loss = loss_of(bank, batch).total
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in adapter.parameters.values()]
        results.append(
            (float(loss.detach()), torch.cat([g.flatten() for g in gradients if g is not None]))
        )
        bank.detach(JOB)
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    torch.testing.assert_close(results[0][1], results[1][1], atol=1e-5, rtol=1e-4)


def test_detaching_leaves_the_base_as_it_was(base: Base) -> None:
    def tree() -> dict[str, tuple[type, frozenset[str], bool]]:
        return {
            name: (type(module), frozenset(vars(module)), module.training)
            for name, module in base.model.named_modules()
        }

    weights = {name: value.clone() for name, value in base.model.state_dict().items()}
    before = tree()
    bank = AdapterBank(base)
    for _ in range(2):
        scramble(bank)
        loss_of(bank, examples(3)).total.backward()  # type: ignore[no-untyped-call]
        bank.detach(JOB)
        bank.detach(JOB)
    assert tree() == before
    after = base.model.state_dict()
    assert after.keys() == weights.keys()
    assert all(torch.equal(after[name], value) for name, value in weights.items())
    assert not any(p.requires_grad or p.grad is not None for p in base.model.parameters())


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
    tuned = bank.logprobs(ids, with_adapter=True)
    base = bank.logprobs(ids, with_adapter=False)
    bank.detach(JOB)
    assert all(torch.equal(one, other) for one, other in zip(tuned, base, strict=True))


def test_every_linear_layer_of_the_decoder_is_a_target(bank: AdapterBank) -> None:
    assert bank.target_modules(()) == [
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
        float(loss_of(bank, batch, seeds).total.detach())
        for seeds in ({JOB: 1}, {JOB: 1}, {JOB: 2})
    ]
    quiet = [float(loss_of(bank, batch).total.detach()) for _ in range(2)]
    bank.detach(JOB)
    assert losses[0] == losses[1] != losses[2]
    assert quiet[0] == quiet[1] not in losses


def test_a_16_bit_base_trains_close_to_full_precision(tmp_path: Path) -> None:
    path = make_base(tmp_path / "half", torch.bfloat16)
    base = load_base(str(path), "cpu")
    assert base.dtype == torch.bfloat16
    assert {p.dtype for p in base.model.parameters()} == {torch.float32}
    bank = AdapterBank(base)
    adapter = scramble(bank)
    loss = loss_of(bank, examples(4))
    loss.total.backward()  # type: ignore[no-untyped-call]
    assert {p.grad.dtype for p in adapter.parameters.values() if p.grad is not None} == {
        torch.float32
    }
    exact = [bank.logprobs([e.token_ids], with_adapter=True)[0][e.trained[1:]] for e in examples(4)]
    assert float(loss.total.detach()) == pytest.approx(-float(torch.cat(exact).sum()), rel=0.01)
