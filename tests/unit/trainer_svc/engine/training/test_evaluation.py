from __future__ import annotations

from collections.abc import Generator

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from tailorbird.errors import FailedPrecondition
from tests.unit.trainer_svc.engine.reference import ReferenceBank
from tests.unit.trainer_svc.engine.tiny import examples
from trainer_svc.engine.base import Base
from trainer_svc.engine.data.tokens import Example
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.engine.training.evaluation import evaluation
from trainer_svc.jobs.model import LoraSpec

JOB = "tenants/acme/jobs/one"


def run_through(work: Generator[None, None, float]) -> tuple[float, int]:
    pieces = 0
    while True:
        pieces += 1
        try:
            next(work)
        except StopIteration as stop:
            return stop.value, pieces


def skewed() -> list[Example]:
    """Records whose means differ much, with few and with many trained tokens."""
    made = examples(9, longest=60)
    for index, example in enumerate(made):
        if index % 3:
            example.token_ids[:] = 7
            example.trained[:-1] = False
    return made


def test_the_loss_is_the_mean_over_trained_tokens(bank: AdapterBank, base: Base) -> None:
    batch = skewed()
    bank.attach(JOB, LoraSpec(rank=4, alpha=8.0), seed=0)
    found, pieces = run_through(evaluation(bank, JOB, batch, 64))
    bank.detach(JOB)
    plain = AutoModelForCausalLM.from_pretrained(base.decoder.config._name_or_path)
    each = []
    for example in batch:
        at = example.trained.nonzero().squeeze(1)
        with torch.no_grad():
            logits = plain(input_ids=example.token_ids[None]).logits[0][at - 1]
        each.append(cross_entropy(logits, example.token_ids[at], reduction="none"))
    assert found == pytest.approx(float(torch.cat(each).mean()), abs=1e-5)
    by_record = float(torch.stack([losses.mean() for losses in each]).mean())
    assert abs(found - by_record) > 0.01
    assert pieces > 3


def test_it_is_the_same_in_pieces_of_any_size() -> None:
    bank, batch = ReferenceBank(), skewed()
    bank.attach(JOB)
    whole, one = run_through(evaluation(bank, JOB, batch, 10_000))
    assert one == 1
    for micro_tokens in (1, 30, 100):
        found, pieces = run_through(evaluation(bank, JOB, batch, micro_tokens))
        assert found == pytest.approx(whole, abs=1e-6)
        assert pieces > 1


def test_a_pass_without_memory_is_made_smaller() -> None:
    bank, batch = ReferenceBank(), skewed()
    bank.attach(JOB)
    whole, _ = run_through(evaluation(bank, JOB, batch, 10_000))
    bank.memory = 70
    found, pieces = run_through(evaluation(bank, JOB, batch, 10_000))
    assert found == pytest.approx(whole, abs=1e-6)
    assert pieces > 3


def test_a_record_that_does_not_fit_alone_is_refused() -> None:
    bank, batch = ReferenceBank(), skewed()
    bank.attach(JOB)
    longest = max(len(example.token_ids) for example in batch)
    bank.memory = longest - 1
    with pytest.raises(FailedPrecondition) as caught:
        run_through(evaluation(bank, JOB, batch, 10_000))
    assert caught.value.reason == "OUT_OF_MEMORY"
    assert caught.value.metadata == {"tokens": str(longest), "limit": "10000"}


def test_another_error_is_the_callers() -> None:
    bank = ReferenceBank()
    with pytest.raises(KeyError):
        run_through(evaluation(bank, "nobody", examples(2), 100))
