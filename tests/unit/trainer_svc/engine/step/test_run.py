"""One job's steps against the same in plain torch; and what a snapshot brings back."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tailorbird.errors import DataCorrupt
from tests.unit.trainer_svc.engine import runs
from tests.unit.trainer_svc.engine.reference import (
    LAYERS,
    ReferenceBank,
    finish,
    make_run,
    weights,
)
from trainer_svc.engine.step.bank import AdapterBank, Share
from trainer_svc.engine.step.optimizer import Optimizer
from trainer_svc.engine.step.run import Run, RunState, Snapshot
from trainer_svc.engine.training.group import Group
from trainer_svc.jobs.model import Hyperparameters

JOB = "tenants/acme/jobs/one"
ASKED: dict[str, Any] = {
    "epochs": 6,
    "learning_rate": 0.05,
    "weight_decay": 0.3,
    "warmup_ratio": 0.2,
}


def trained(bank: ReferenceBank, micro_tokens: int = 10_000, **asked: Any) -> Run:
    run = make_run(bank, JOB, **{**ASKED, **asked})
    assert finish(Group(bank, micro_tokens), [run]) == {}
    return run


def plain(*, clip: bool = True, schedule: bool = True, decay: float = 0.3) -> torch.Tensor:
    """Return the weights after the steps of `trained`, taken by torch's own parts."""
    bank = ReferenceBank()
    run = make_run(bank, JOB, **ASKED)
    adapter = bank.attach(JOB)
    parameters = list(adapter.parameters.values())
    optimizer = torch.optim.AdamW(parameters, lr=0.05, betas=(0.9, 0.99), weight_decay=decay)
    total, warmup = run.plan.total_steps, round(run.plan.total_steps * 0.2)

    def factor(step: int) -> float:
        if step + 1 <= warmup:
            return (step + 1) / warmup
        passed = (step + 1 - warmup) / (total - warmup)
        return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * passed))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor if schedule else lambda _: 1.0)
    for step in range(total):
        batch = [run.training[record] for record in run.plan.records(step)]
        optimizer.zero_grad()
        loss = bank.forward({JOB: Share(batch)})[JOB]
        (loss.total / loss.trained_tokens).backward()  # type: ignore[no-untyped-call]
        if clip:
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        scheduler.step()
    return torch.cat([parameter.detach().flatten() for parameter in parameters])


def distance(run: Run, other: torch.Tensor) -> float:
    return float((weights(run) - other).norm() / other.norm())


@pytest.mark.parametrize("micro_tokens", [10_000, 40, 1])
def test_steps_are_those_of_plain_torch(micro_tokens: int) -> None:
    assert distance(trained(ReferenceBank(), micro_tokens), plain()) < 1e-4


@pytest.mark.parametrize("without", [{"clip": False}, {"schedule": False}, {"decay": 0.0}])
def test_each_part_of_a_step_is_seen_in_the_weights(without: dict[str, Any]) -> None:
    """Or the test above would pass without it."""
    assert distance(trained(ReferenceBank()), plain(**without)) > 1e-2


def test_the_figures_of_a_step_are_its_mean_loss_and_its_norm_before_clipping() -> None:
    bank = ReferenceBank()
    run = make_run(bank, JOB, **ASKED)
    batch = [run.training[record] for record in run.plan.records(0)]
    loss = bank.forward({JOB: Share(batch)})[JOB]
    mean = loss.total / loss.trained_tokens
    parameters = list(run.adapter.parameters.values())
    norm = torch.stack([each.norm() for each in torch.autograd.grad(mean, parameters)]).norm()
    group = Group(bank, 30)
    while not (outcomes := group.step({JOB: run})):
        pass
    result = outcomes[JOB]
    assert not isinstance(result, Exception)
    assert result.loss == pytest.approx(float(mean.detach()), rel=1e-5)
    assert result.gradient_norm == pytest.approx(float(norm), rel=1e-4)
    assert result.gradient_norm > 1
    assert result.learning_rate == pytest.approx(0.05 / round(run.plan.total_steps * 0.2))
    assert (run.state.step, run.state.tokens) == (1, loss.tokens)
    assert run.state.training_loss == result.loss


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_the_update_to_weight_ratio_is_that_of_all_weights_as_one_vector(decay: float) -> None:
    bank = ReferenceBank()
    run = make_run(bank, JOB, **{**ASKED, "weight_decay": decay})
    group, steps = Group(bank, 30), 0
    while not run.done:
        before = weights(run)
        outcomes = group.step({JOB: run})
        if not outcomes:
            assert torch.equal(weights(run), before)
            continue
        result = outcomes[JOB]
        assert not isinstance(result, Exception)
        expected = (weights(run) - before).norm() / before.norm()
        assert result.update_ratio == pytest.approx(float(expected), rel=1e-5)
        assert result.update_ratio > 0
        steps += 1
    assert steps == run.plan.total_steps


def test_weights_that_are_all_zero_have_no_ratio() -> None:
    weight = torch.nn.Parameter(torch.zeros(4))
    optimizer = Optimizer({"one": weight}, weight_decay=0.0)
    assert weight.grad is not None
    weight.grad.fill_(1.0)
    assert not optimizer.step(0.1, optimizer.norm(), torch.zeros(())).isfinite()
    assert weight.tolist() == pytest.approx([-0.1] * 4)


def test_a_run_needs_every_choice_made() -> None:
    made = make_run(ReferenceBank(), JOB)
    with pytest.raises(ValueError, match="resolved hyperparameters"):
        Run(JOB, made.adapter, Hyperparameters(), made.plan, made.training, [])


def test_a_step_without_a_forward_pass_has_no_figures() -> None:
    run = make_run(ReferenceBank(), JOB)
    with pytest.raises(ValueError, match="added no loss"):
        run.figures()


def test_training_lowers_the_loss(bank: AdapterBank) -> None:
    run = runs.make_run(bank)
    results = []
    while not run.done:
        results.append(runs.step(bank, run))
    bank.detach(runs.JOB)
    assert run.state.step == run.plan.total_steps
    assert run.state.tokens == 8 * sum(len(example.token_ids) for example in run.training)
    assert results[-1].loss < results[0].loss - 0.3
    assert results[-1].learning_rate == pytest.approx(1e-3)


def test_a_run_resumed_at_any_step_ends_bit_for_bit_the_same(bank: AdapterBank) -> None:
    """With dropout, and several forward passes a step."""
    run = runs.make_run(bank, epochs=3, dropout=0.2)
    snapshots = [run.snapshot()]
    while not run.done:
        runs.step(bank, run, 30)
        snapshots.append(run.snapshot())
    assert len(snapshots) > 6
    for snapshot in snapshots:
        bank.detach(runs.JOB)
        again = runs.make_run(bank, epochs=3, dropout=0.2)
        again.restore(snapshot, None)
        while not again.done:
            runs.step(bank, again, 30)
        assert again.state == run.state
        _assert_same(again.snapshot(), snapshots[-1])
    bank.detach(runs.JOB)


def test_what_is_accumulated_of_a_step_is_no_part_of_a_snapshot() -> None:
    bank = ReferenceBank(dropout=0.3)
    whole = trained(bank, 30)
    run = make_run(bank, JOB, **ASKED)
    group = Group(bank, 30)
    group.step({JOB: run})
    assert run.state.step == 0
    snapshot = run.snapshot()
    run.restore(snapshot, None)
    finish(Group(bank, 30), [run])
    assert torch.equal(weights(run), weights(whole))


def test_a_snapshot_is_a_copy() -> None:
    bank = ReferenceBank()
    run = make_run(bank, JOB)
    snapshot = run.snapshot()
    before = {name: tensor.clone() for name, tensor in snapshot.adapter.items()}
    finish(Group(bank, 1000), [run])
    assert snapshot.state == RunState()
    assert all(torch.equal(snapshot.adapter[name], tensor) for name, tensor in before.items())


def _without(tensors: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in tensors.items() if key != name}


@pytest.mark.parametrize("name", ["0.a", "0.b.exp_avg", "1.a.exp_avg_sq", "0.a.step"])
def test_a_snapshot_that_does_not_fit_changes_nothing(name: str) -> None:
    bank = ReferenceBank()
    source, run = trained(bank), make_run(bank, JOB)
    before = weights(run).clone()
    snapshot = source.snapshot()
    for tensors in ({}, {name: torch.zeros(3)}):
        damaged = Snapshot(
            snapshot.step,
            {**_without(snapshot.adapter, name), **tensors},
            {**_without(snapshot.optimizer, name), **tensors},
            snapshot.state,
        )
        with pytest.raises(DataCorrupt):
            run.restore(damaged, None)
    assert torch.equal(weights(run), before)
    assert run.state == RunState()


def test_a_best_snapshot_that_does_not_fit_changes_nothing() -> None:
    bank = ReferenceBank()
    run = make_run(bank, JOB)
    state = RunState(step=3, best_step=2, best_validation_loss=1.0)
    fine = run.snapshot()
    latest = Snapshot(3, fine.adapter, fine.optimizer, state)
    best = Snapshot(2, {"0.a": torch.zeros(1)}, {}, state)
    with pytest.raises(DataCorrupt):
        run.restore(latest, best)
    assert run.state == RunState()


def test_the_best_evaluation_is_held_in_the_end() -> None:
    bank = ReferenceBank()
    run = make_run(bank, JOB)
    group = Group(bank, 10_000)
    assert not run.evaluated(9.0)
    seen = {}
    for loss in (3.0, 2.0, 2.0, 2.5):
        group.step({JOB: run})
        assert run.evaluated(loss) is (run.state.step <= 2)
        seen[run.state.step] = weights(run).clone()
    assert run.state.base_validation_loss == 9.0
    assert (run.state.best_validation_loss, run.state.best_step) == (2.0, 2)
    assert run.state.evaluations_since_best == 2
    run.hold_best()
    assert torch.equal(weights(run), seen[2])
    assert run.state.validation_loss == 2.0


def test_a_best_loss_whose_snapshot_is_lost_is_forgotten() -> None:
    bank = ReferenceBank()
    run = make_run(bank, JOB)
    group = Group(bank, 10_000)
    group.step({JOB: run})
    run.evaluated(1.0)
    best = run.best
    group.step({JOB: run})
    run.evaluated(2.0)
    latest = run.snapshot()
    for kept, expected in ((best, best), (None, None), (latest, None)):
        again = make_run(bank, JOB)
        again.restore(latest, kept)
        assert again.best is expected
        assert (again.state.best_validation_loss is None) is (expected is None)
        assert again.state.evaluations_since_best == int(expected is not None)
    assert best is not None
    again = make_run(bank, JOB)
    again.restore(best, None)
    assert again.best is best


def test_the_parameters_stay_the_adapters() -> None:
    """What the bank reads and what a step writes is one memory."""
    bank = ReferenceBank()
    run = make_run(bank, JOB)
    parameters = run.adapter.parameters
    assert len(parameters) == 2 * LAYERS
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    finish(Group(bank, 1000), [run])
    for name, parameter in parameters.items():
        assert not torch.equal(parameter, before[name])
        assert torch.equal(parameter.detach(), run.snapshot().adapter[name])


def test_parameters_must_be_views_of_one_tensor() -> None:
    bank = ReferenceBank()
    adapter = bank.attach(JOB)
    adapter.parameters["1.a"] = torch.nn.Parameter(adapter.parameters["1.a"].detach().clone())
    with pytest.raises(ValueError, match=r"1\.a is no view"):
        Optimizer(adapter.parameters, weight_decay=0.0)


def test_a_step_without_a_trained_token_changes_nothing_but_decay() -> None:
    bank = ReferenceBank()
    run = make_run(bank, JOB, records=1, epochs=1, weight_decay=0.0)
    run.training[0].trained[:] = False
    before = weights(run).clone()
    assert finish(Group(bank, 1000), [run]) == {}
    assert torch.equal(weights(run), before)


def _assert_same(found: Snapshot, expected: Snapshot) -> None:
    assert found.step == expected.step
    for ours, theirs in ((found.adapter, expected.adapter), (found.optimizer, expected.optimizer)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
