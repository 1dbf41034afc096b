from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tailorbird.errors import FailedPrecondition
from tests.unit.trainer_svc.engine.runs import JOB, make_run, step
from trainer_svc.engine.step.bank import AdapterBank, StepLoss
from trainer_svc.engine.step.run import Run


@pytest.fixture
def run(bank: AdapterBank) -> Iterator[Run]:
    yield make_run(bank)
    bank.detach(JOB)


def poisoned(loss: StepLoss) -> StepLoss:
    return StepLoss(loss.total * float("nan"), loss.trained_tokens, loss.tokens)


def test_training_lowers_the_loss(bank: AdapterBank, run: Run) -> None:
    results = []
    while not run.done:
        results.append(run.apply(step(bank, run)))
    assert run.state.step == run.plan.total_steps
    assert run.state.tokens == 8 * sum(len(e.token_ids) for e in run.training)
    assert results[-1].loss < results[0].loss - 0.3
    assert results[-1].learning_rate == pytest.approx(1e-3)
    assert not any(result.skipped for result in results)


def test_a_step_that_is_not_finite_changes_no_weight(bank: AdapterBank, run: Run) -> None:
    run.apply(step(bank, run))
    before = run.adapter.tensors(torch.float32)
    result = run.apply(poisoned(step(bank, run)))
    assert result.skipped
    assert run.state.step == 2
    after = run.adapter.tensors(torch.float32)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not run.apply(step(bank, run)).skipped
    assert run.state.non_finite_in_a_row == 0


def test_six_of_them_in_a_row_fail_the_job(bank: AdapterBank, run: Run) -> None:
    for _ in range(5):
        run.apply(poisoned(step(bank, run)))
    with pytest.raises(FailedPrecondition, match="in a row") as caught:
        run.apply(poisoned(step(bank, run)))
    assert caught.value.reason == "NON_FINITE"


def test_a_weight_that_is_not_finite_fails_the_job(bank: AdapterBank, run: Run) -> None:
    class Breaks(torch.optim.AdamW):
        def step(self, closure: None = None) -> None:  # type: ignore[override]
            next(iter(run.adapter.parameters.values())).data[0, 0] = float("inf")

    run.optimizer = Breaks(run.adapter.parameters.values())
    with pytest.raises(FailedPrecondition, match="weight") as caught:
        run.apply(step(bank, run))
    assert caught.value.reason == "NON_FINITE"
