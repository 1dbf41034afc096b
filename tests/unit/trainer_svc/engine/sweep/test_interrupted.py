"""A sweep that is asked to end, or meets a store that fails, wherever it waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from safetensors.torch import load

from tailorbird.errors import StoreUnavailable
from tests.unit.trainer_svc.engine import versions
from tests.unit.trainer_svc.engine.sweep.test_sweeping import (
    COMMON,
    DATA,
    DIGEST,
    RATES,
    VERSION,
    after,
    attached,
    of,
    results,
    start,
    sweep_of,
    uploaded,
)
from tests.unit.trainer_svc.engine.working import Working
from trainer_svc.engine import course
from trainer_svc.engine.elsewhere import finished
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.jobs.events import JobWarning, Judged, Prepared, StepProgress
from trainer_svc.jobs.sweep import HALVED, RungDecided, RungResult, TrialReached, TrialResult
from trainer_svc.judgement.model import EvaluationSpec
from trainer_svc.protocol import Cancel, Cancelled, Failed, Start, Suspend, Suspended, Trained

SHORT = COMMON.model_copy(update={"epochs": 2})


@pytest_asyncio.fixture
async def working(bank: AdapterBank, tmp_path: Path) -> AsyncIterator[Working]:
    working = Working(bank, tmp_path, digest=DIGEST)
    yield working
    await asyncio.to_thread(working.steps.close)


class Awaited:
    """Counts what a sweep awaits of the step thread; at `number` something happens.

    "before" what is awaited has any effect, or "after" it, while nobody has heard of it.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.number = -1
        self.moment = "before"
        self.happens: Any = None
        monkeypatch.setattr(course, "finished", self._around)

    async def _around(self, future: Any, stop: Any) -> Any:
        number, self.count = self.count, self.count + 1
        if number == self.number and self.moment == "before":
            self.happens()
        elif number == self.number:
            loop = asyncio.get_running_loop()

            def over(_: Future[Any]) -> None:
                loop.call_soon_threadsafe(self.happens)

            future.add_done_callback(over)
        return await finished(future, stop)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("command", [Cancel, Suspend])
async def test_asked_to_end_at_any_moment_a_sweep_leaves_nothing(
    working: Working, monkeypatch: pytest.MonkeyPatch, command: Any, moment: str
) -> None:
    """And one that was suspended goes on to the end that it would have come to."""
    awaited = Awaited(monkeypatch)
    awaited.moment = moment
    whole = await start(working, "whole", sweep_of(RATES[:2], at_once=1), hyperparameters=SHORT)
    await working.until(Trained, whole.lease)
    expected, awaits = results(working, whole), awaited.count
    working.worker.take(Cancel(lease=whole.lease))
    await working.until(Cancelled, whole.lease)
    assert awaits > 12
    for number in range(awaits):
        sweep = sweep_of(RATES[:2], at_once=1)
        awaited.count, awaited.number = 0, number
        job = await working.job(
            f"{command.__name__.lower()}-{number}", DATA, sweep=sweep,
            base_model_digest=DIGEST, hyperparameters=SHORT, evaluation=whole.evaluation,
        )  # fmt: skip
        lease = job.lease
        awaited.happens = lambda lease=lease: working.worker.take(command(lease=lease))
        working.worker.take(Start(assignment=job))
        await working.until(Cancelled if command is Cancel else Suspended, lease)
        assert not await attached(working), number
        assert not working.left_behind
        if command is Suspend:
            awaited.number = -1
            again = after(working, job)
            working.worker.take(Start(assignment=again))
            await working.until(Trained, again.lease)
            found = results(working, again)
            assert found.active == expected.active
            assert [each.step for each in found.trials[1].rungs] == [
                each.step for each in expected.trials[1].rungs
            ]
            working.worker.take(Cancel(lease=again.lease))
            await working.until(Cancelled, again.lease)


async def test_the_best_begins_with_its_version_where_its_checkpoint_is_lost(
    working: Working, bank: AdapterBank
) -> None:
    weights = versions.trained(bank)
    await versions.publish(working.store, weights)
    sweep = sweep_of((1e-30, 1e-29))
    trials = tuple(each.model_copy(update={"rank": 8, "alpha": 16.0}) for each in sweep.spec.trials)
    at = RungResult(step=1, validation_loss=1.0)
    known = sweep.results.model_copy(
        update={
            "trials": (TrialResult(rungs=(at, at)), TrialResult(rungs=(at,), stop_reason=HALVED)),
            "decided": 2,
        }
    )
    sweep = sweep.model_copy(
        update={"spec": sweep.spec.model_copy(update={"trials": trials}), "results": known}
    )
    job = await start(
        working, "on", sweep,
        lora=versions.LORA, from_version=versions.VERSION, hyperparameters=SHORT,
    )  # fmt: skip
    await uploaded(working, job)
    stored = await working.store.get(
        f"tenants/acme/adapters/support/versions/{VERSION}/adapter_model.safetensors"
    )
    found = load(stored)
    assert len(found) == len(weights)
    total = sum(float(matrix.float().abs().sum()) for matrix in weights.values())
    assert sum(float(matrix.float().abs().sum()) for matrix in found.values()) == pytest.approx(
        total, rel=1e-3
    )


async def test_a_version_that_is_gone_is_told_before_the_data_is_read(working: Working) -> None:
    job = await start(
        working, "gone", sweep_of(), lora=versions.LORA, from_version=versions.VERSION
    )
    failed = await working.until(Failed, job.lease)
    assert versions.VERSION in failed.error.message
    assert not of(working, job, Prepared)


def _all_at_once(monkeypatch: pytest.MonkeyPatch, method: str, count: int) -> None:
    """Let each of `count` calls of a course's method begin, or none end."""
    original = getattr(course.Course, method)
    begun = 0
    everyone = asyncio.Event()

    async def called(self: course.Course) -> None:
        nonlocal begun
        begun += 1
        if begun == count:
            everyone.set()
        await everyone.wait()
        await original(self)

    monkeypatch.setattr(course.Course, method, called)


async def test_all_trials_leave_the_base_between_the_same_two_passes(
    working: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass of the other jobs between each and the next would hold the sweep for minutes."""
    long = COMMON.model_copy(update={"epochs": 1000})
    job = await start(working, "leaving", sweep_of(), hyperparameters=long)
    await working.until(StepProgress, job.lease)
    _all_at_once(monkeypatch, "detach", 4)
    working.worker.take(Cancel(lease=job.lease))
    await working.until(Cancelled, job.lease)
    assert not await attached(working)


async def test_those_who_are_stopped_are_forgotten_together(
    working: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    _all_at_once(monkeypatch, "forget", 2)
    job = await start(working, "halving", sweep_of())
    await working.until(Trained, job.lease)
    assert len(of(working, job, RungDecided)) == 3
    working.worker.take(Cancel(lease=job.lease))
    await working.until(Cancelled, job.lease)


async def test_trials_whose_checkpoints_cannot_be_written_are_trained_again(
    working: Working,
) -> None:
    """They wait for their turn off the base, and there is nothing to bring them back from."""
    whole = await start(working, "whole", sweep_of(at_once=1), hyperparameters=SHORT)
    await working.until(Trained, whole.lease)
    working.store.fails = "/trial-"
    job = await start(working, "unwritten", sweep_of(at_once=1), hyperparameters=SHORT)
    await working.until(Trained, job.lease)
    found, expected = results(working, job), results(working, whole)
    assert found.active == expected.active
    assert [[rung.step for rung in each.rungs] for each in found.trials] == [
        [rung.step for rung in each.rungs] for each in expected.trials
    ]
    told = {said.reason for said in of(working, job, JobWarning)}
    assert "CHECKPOINT_FAILED" in told
    for lease in (whole.lease, job.lease):
        working.worker.take(Cancel(lease=lease))
        await working.until(Cancelled, lease)


async def test_a_store_that_is_down_for_a_trial_lets_the_sweep_be_tried_again(
    working: Working,
) -> None:
    job = await start(working, "down", sweep_of(at_once=1), hyperparameters=SHORT)
    await working.until(TrialReached, job.lease)
    working.store.down = "/trial-"
    failed = await working.until(Failed, job.lease)
    assert failed.retryable
    assert not await attached(working)
    working.store.down = None
    again = after(working, job)
    working.worker.take(Start(assignment=again))
    await working.until(Trained, again.lease)
    assert results(working, again).decided == 3
    working.worker.take(Cancel(lease=again.lease))
    await working.until(Cancelled, again.lease)


async def test_a_judgement_that_fails_trains_no_trial_again(
    working: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down(_: Any) -> None:
        raise StoreUnavailable("the object store failed")

    with monkeypatch.context() as broken:
        broken.setattr("trainer_svc.engine.member.verdict", down)
        job = await start(
            working, "judged", sweep_of(at_once=2),
            hyperparameters=SHORT, evaluation=EvaluationSpec(max_records=4),
        )  # fmt: skip
        failed = await working.until(Failed, job.lease)
    assert failed.retryable
    known = results(working, job)
    assert (known.decided, len(known.active)) == (3, 1)
    again = after(working, job)
    working.worker.take(Start(assignment=again))
    await working.until(Trained, again.lease)
    assert not of(working, again, TrialReached)
    assert not of(working, again, RungDecided)
    assert not of(working, again, StepProgress)
    assert of(working, again, Judged)
    working.worker.take(Cancel(lease=again.lease))
    await working.until(Cancelled, again.lease)
