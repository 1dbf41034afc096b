"""A sweep on a real base, step thread and store: halved, killed, cancelled, resumed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from safetensors.torch import load

from tests.unit.trainer_svc.engine.tiny import chats, jsonl
from tests.unit.trainer_svc.engine.working import Working
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.engine.step.run import Run
from trainer_svc.engine.sweep.progress import SweepProgress
from trainer_svc.jobs.events import CheckpointSaved, Evaluation, Prepared, Resumed, StepProgress
from trainer_svc.jobs.model import Hyperparameters, LoraSpec
from trainer_svc.jobs.sweep import (
    HALVED,
    AskedSweep,
    RungDecided,
    SearchSpace,
    SweepResults,
    SweepSpec,
    TrialReached,
    TrialSpec,
)
from trainer_svc.judgement.model import EvaluationSpec
from trainer_svc.protocol import (
    Assignment,
    Cancel,
    Cancelled,
    Failed,
    LeaseKey,
    Start,
    Suspend,
    Suspended,
    SweepAssignment,
    Trained,
    Upload,
    Uploaded,
)

DIGEST = f"sha256:{'0' * 64}"
VERSION = "20261120T153000-sweep-1"
COMMON = Hyperparameters(epochs=4, batch_tokens=128, checkpoint_interval=1000)
RATES = (1e-6, 1e-3, 3e-3, 1e-5)
DATA = jsonl(chats(60))


@pytest_asyncio.fixture
async def working(bank: AdapterBank, tmp_path: Path) -> AsyncIterator[Working]:
    working = Working(bank, tmp_path, digest=DIGEST)
    yield working
    working.store.go_on.set()
    await asyncio.to_thread(working.steps.close)


def sweep_of(rates: tuple[float, ...] = RATES, at_once: int = 8, **own: Any) -> SweepAssignment:
    trials = tuple(
        TrialSpec(rank=rank, alpha=2.0 * rank, learning_rate=rate, **own)
        for rate, rank in zip(rates, cycle((16, 8)), strict=False)
    )
    asked = AskedSweep(space=SearchSpace(learning_rates=rates))
    spec = SweepSpec(asked=asked, trials=trials)
    return SweepAssignment(spec=spec, results=SweepResults.begun(spec), at_once=at_once)


async def start(working: Working, name: str, sweep: SweepAssignment, **changes: Any) -> Assignment:
    given: dict[str, Any] = {
        "base_model_digest": DIGEST,
        "hyperparameters": COMMON,
        "evaluation": EvaluationSpec(max_records=0),
        **changes,
    }
    return await working.start(name, DATA, sweep=sweep, **given)


def results(working: Working, job: Assignment) -> SweepResults:
    """What the job store knows after what was said under the lease."""
    assert job.sweep is not None
    known = job.sweep.results
    for said in working.of(job.lease):
        if isinstance(said, TrialReached | RungDecided):
            known = known.after(said)
    return known


def after(working: Working, job: Assignment) -> Assignment:
    """The same sweep under its next lease, as the dispatcher would assign it."""
    assert job.sweep is not None
    lease = LeaseKey(job=job.lease.job, epoch=job.lease.epoch + 1)
    sweep = job.sweep.model_copy(update={"results": results(working, job)})
    return job.model_copy(update={"lease": lease, "sweep": sweep})


async def uploaded(working: Working, job: Assignment) -> Uploaded:
    await working.until(Trained, job.lease)
    working.worker.take(Upload(lease=job.lease, version=VERSION))
    return await working.until(Uploaded, job.lease)


def of(working: Working, job: Assignment, kind: type[Any]) -> list[Any]:
    return [said for said in working.of(job.lease) if isinstance(said, kind)]


async def attached(working: Working) -> list[str]:
    return await asyncio.wrap_future(working.steps.call(lambda: list(working.bank._adapters)))


@pytest.mark.parametrize("at_once", [8, 2, 1])
async def test_the_best_trial_is_published_and_the_others_figures_are_told(
    working: Working, at_once: int
) -> None:
    job = await start(working, "sweep", sweep_of(at_once=at_once))
    report = await uploaded(working, job)
    known = results(working, job)
    assert known.decided == 3
    (best,) = known.active
    assert best in {1, 2}
    assert [len(trial.rungs) for trial in known.trials].count(1) == 2
    assert sorted(trial.stop_reason for trial in known.trials) == ["", HALVED, HALVED, HALVED]
    total = known.trials[best].total_steps
    steps = [rung.step for rung in known.trials[best].rungs]
    assert steps == [-(-total // 4), -(-total // 2), total]
    losses = [rung.validation_loss for rung in known.trials[best].rungs]
    assert losses == sorted(losses, key=lambda loss: -(loss or 0))
    for rung, decided in enumerate(of(working, job, RungDecided)):
        kept = [known.trials[trial].rungs[rung].validation_loss for trial in decided.going_on]
        lost = [known.trials[trial].rungs[rung].validation_loss for trial in decided.stopped]
        assert not lost or max(kept) <= min(lost)
    final = of(working, job, Evaluation)
    assert [event.validation_loss for event in final] == [
        pytest.approx(known.trials[best].rungs[-1].validation_loss, rel=1e-3)
    ]
    assert job.sweep is not None
    assert report.manifest.rank == job.sweep.spec.trials[best].rank
    assert f'"learning_rate":{RATES[best]:g}' in await report_of(working)
    assert not of(working, job, CheckpointSaved)
    assert not working.left_behind
    assert not await attached(working)


async def report_of(working: Working) -> str:
    stored = await working.store.get(
        f"tenants/acme/adapters/support/versions/{VERSION}/report.json"
    )
    return stored.decode().replace(" ", "").replace("\n", "")


async def test_never_are_more_adapters_attached_than_the_sweep_may_have(
    working: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 0
    attach = AdapterBank.attach

    def counted(bank: AdapterBank, *arguments: Any, **named: Any) -> Any:
        nonlocal most
        made = attach(bank, *arguments, **named)
        most = max(most, len(bank._adapters))
        return made

    monkeypatch.setattr(AdapterBank, "attach", counted)
    job = await start(working, "crowded", sweep_of((*RATES, 3e-6), at_once=2))
    await working.until(Trained, job.lease)
    assert most == 2
    working.worker.take(Cancel(lease=job.lease))
    await working.until(Cancelled, job.lease)


async def test_the_result_is_the_one_of_the_best_setting_alone(working: Working) -> None:
    """In a group of another size sums are ordered otherwise; more does not tell them apart."""
    job = await start(working, "sweep", sweep_of(at_once=2))
    await uploaded(working, job)
    (best,) = results(working, job).active
    assert job.sweep is not None
    rank = job.sweep.spec.trials[best].rank
    weights = await working.store.get(
        f"tenants/acme/adapters/support/versions/{VERSION}/adapter_model.safetensors"
    )
    alone = await working.start(
        "alone",
        DATA,
        lora=LoraSpec(rank=rank, alpha=2.0 * rank),
        base_model_digest=DIGEST,
        hyperparameters=COMMON.model_copy(update={"learning_rate": RATES[best]}),
        evaluation=EvaluationSpec(max_records=0),
        adapter="tenants/acme/adapters/alone",
    )
    await uploaded(working, alone)
    found, expected = (
        load(weights),
        load(
            await working.store.get(
                f"tenants/acme/adapters/alone/versions/{VERSION}/adapter_model.safetensors"
            )
        ),
    )
    for name, matrix in expected.items():
        torch.testing.assert_close(found[name], matrix, rtol=1e-2, atol=1e-4)


async def test_the_history_is_that_of_one_job(working: Working) -> None:
    job = await start(working, "history", sweep_of())
    await working.until(Trained, job.lease)
    (prepared,) = of(working, job, Prepared)
    assert prepared.hyperparameters.learning_rate is None
    assert prepared.hyperparameters.epochs == 4
    steps = of(working, job, StepProgress)
    assert [event.step for event in steps] == sorted(event.step for event in steps)
    assert steps[-1].step == steps[-1].total_steps == prepared.total_steps
    known = results(working, job)
    assert steps[-1].step == sum(trial.rungs[-1].step for trial in known.trials)
    working.worker.take(Cancel(lease=job.lease))
    await working.until(Cancelled, job.lease)


async def test_without_validation_data_there_is_nothing_to_compare(working: Working) -> None:
    job = await start(working, "blind", sweep_of(), validation_fraction=None)
    failed = await working.until(Failed, job.lease)
    assert (failed.error.reason, failed.retryable) == ("NO_VALIDATION_DATA", False)
    assert not await attached(working)


async def test_a_sweep_holds_records_out_where_it_names_none(working: Working) -> None:
    job = await start(working, "held", sweep_of(), validation_fraction=None, hold_out=True)
    await working.until(Trained, job.lease)
    (prepared,) = of(working, job, Prepared)
    assert prepared.validation is not None
    # Copies of a record are on one side.
    assert 10 <= prepared.validation.kept <= 12
    working.worker.take(Cancel(lease=job.lease))
    await working.until(Cancelled, job.lease)


def _broken(monkeypatch: pytest.MonkeyPatch, *trials: int) -> None:
    """Let the loss of some trials be no number after their first step."""
    forward = AdapterBank.forward

    def spoiled(bank: AdapterBank, shares: Any) -> Any:
        losses = forward(bank, shares)
        for job, loss in losses.items():
            if any(job.endswith(f"/trials/{trial}") for trial in trials):
                object.__setattr__(loss, "total", loss.total * float("nan"))
        return losses

    monkeypatch.setattr(AdapterBank, "forward", spoiled)


async def test_a_trial_whose_loss_is_no_number_stops_alone(
    working: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    _broken(monkeypatch, 1, 3)
    job = await start(working, "broken", sweep_of())
    await working.until(Trained, job.lease)
    known = results(working, job)
    assert [known.trials[trial].stop_reason for trial in (1, 3)] == ["NON_FINITE"] * 2
    assert known.trials[1].rungs[0].validation_loss is None
    assert known.active == [2]
    working.worker.take(Cancel(lease=job.lease))
    await working.until(Cancelled, job.lease)


async def test_a_sweep_of_which_no_trial_is_left_fails(
    working: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    _broken(monkeypatch, 0, 1, 2, 3)
    job = await start(working, "lost", sweep_of())
    failed = await working.until(Failed, job.lease)
    assert (failed.error.reason, failed.retryable) == ("NO_TRIAL_LEFT", False)
    assert "nan" in failed.error.message
    assert not await attached(working)
    # The worker died before it could say so: the next one finds none left, and says it.
    again = after(working, job)
    working.worker.take(Start(assignment=again))
    failed = await working.until(Failed, again.lease)
    assert failed.error.reason == "NO_TRIAL_LEFT"


@pytest.mark.parametrize("at_once", [4, 1])
async def test_without_memory_a_sweep_may_be_tried_with_fewer_trials_at_a_time(
    working: Working, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    def full(bank: AdapterBank, shares: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(AdapterBank, "forward", full)
    job = await start(working, "large", sweep_of(at_once=at_once))
    failed = await working.until(Failed, job.lease)
    assert (failed.error.reason, failed.retryable) == ("OUT_OF_MEMORY", at_once > 1)
    assert not await attached(working)


@pytest.mark.parametrize(("command", "ending"), [(Cancel, Cancelled), (Suspend, Suspended)])
@pytest.mark.parametrize("at_once", [8, 1])
async def test_cancel_and_suspend_let_go_of_every_trial(
    working: Working, at_once: int, command: Any, ending: Any
) -> None:
    long = COMMON.model_copy(update={"epochs": 10_000})
    job = await start(working, "long", sweep_of(at_once=at_once), hyperparameters=long)
    await working.until(StepProgress, job.lease)
    working.worker.take(command(lease=job.lease))
    await working.until(ending, job.lease)
    assert not await attached(working)
    assert not working.left_behind
    assert bool([key for key in working.store.puts if "/trial-" in key]) is (ending is Suspended)


@pytest.mark.parametrize("at_once", [8, 1])
async def test_a_suspended_sweep_goes_on_where_it_was(
    working: Working, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    whole = await start(working, "whole", sweep_of(at_once=at_once))
    await working.until(Trained, whole.lease)
    taken = 0
    stepped = Run.stepped

    def counted(*arguments: Any) -> Any:
        nonlocal taken
        taken += 1
        return stepped(*arguments)

    monkeypatch.setattr(Run, "stepped", counted)
    job = await start(working, "parted", sweep_of(at_once=at_once))
    await working.until(TrialReached, job.lease)
    working.worker.take(Suspend(lease=job.lease))
    await working.until(Suspended, job.lease)
    again = after(working, job)
    begun: list[tuple[int, int]] = []
    begins = SweepProgress.begins

    def noted(progress: SweepProgress, trial: int, step: int, tokens: int) -> None:
        begun.append((step, tokens))
        begins(progress, trial, step, tokens)

    monkeypatch.setattr(SweepProgress, "begins", noted)
    working.worker.take(Start(assignment=again))
    await working.until(Trained, again.lease)
    assert of(working, again, Resumed)
    # How fast the trials came to their checkpoints is not told again.
    assert any(step > 0 and tokens > 0 for step, tokens in begun)
    known = results(working, again)
    _same(known, results(working, whole))
    # No step was taken twice, neither after the pause nor by trials that left the base meanwhile.
    assert taken == sum(trial.rungs[-1].step for trial in known.trials)
    for lease in (whole.lease, again.lease):
        working.worker.take(Cancel(lease=lease))
        await working.until(Cancelled, lease)


def _same(found: SweepResults, expected: SweepResults) -> None:
    assert found.active == expected.active
    for one, other in zip(found.trials, expected.trials, strict=True):
        assert [rung.step for rung in one.rungs] == [rung.step for rung in other.rungs]
        assert one.stop_reason == other.stop_reason
        for here, there in zip(one.rungs, other.rungs, strict=True):
            assert here.validation_loss == pytest.approx(there.validation_loss, rel=1e-3)


class Killed(Exception):
    """Stands for SIGKILL: nothing more is said, and nothing more is written."""


@pytest.mark.parametrize(
    "moment", ["reached-1", "reached-3", "decided-0", "decided-1", "decided-2"]
)
async def test_killed_at_any_moment_a_sweep_comes_to_the_same_end(
    bank: AdapterBank, tmp_path: Path, moment: str
) -> None:
    """The worker is gone right before it says what it has found; the next has only the stores."""
    kind, _, count = moment.partition("-")
    first = Working(bank, tmp_path / "first", digest=DIGEST)
    whole = await start(first, "sweep", sweep_of(at_once=2))
    await working_end(first, whole)
    expected = results(first, whole)

    dying = Working(bank, tmp_path / "second", digest=DIGEST)
    job = await start(dying, "sweep", sweep_of(at_once=2))
    wanted = TrialReached if kind == "reached" else RungDecided
    heard = 0
    dead = asyncio.Event()
    send = dying._hear

    def until_killed(report: Any) -> None:
        nonlocal heard
        said = getattr(report, "event", report)
        heard += isinstance(said, wanted)
        if heard > int(count):
            dead.set()
        if not dead.is_set():
            send(report)

    dying._hear = until_killed  # type: ignore[method-assign]
    async with asyncio.timeout(60):
        await dead.wait()
    await asyncio.to_thread(dying.steps.close)
    for task in list(dying.worker._tasks.values()):
        task.cancel()
        await asyncio.wait({task})
    bank._adapters.clear()

    following = Working(bank, tmp_path / "second", digest=DIGEST)
    again = after(dying, job)
    following.worker.take(Start(assignment=again))
    await working_end(following, again)
    _same(results(following, again), expected)


async def working_end(working: Working, job: Assignment) -> None:
    await uploaded(working, job)
    await asyncio.to_thread(working.steps.close)
