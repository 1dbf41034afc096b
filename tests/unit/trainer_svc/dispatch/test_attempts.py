"""How often in a row a job is tried that lacks something, and what begins the count anew."""

from __future__ import annotations

import asyncio

import pytest

from tailorbird.object_store import ObstoreStore
from tests.unit.trainer_svc.dispatching import Make, ended, running
from tests.unit.trainer_svc.fakes import ScriptedExecutor, ScriptedWorker
from tests.unit.trainer_svc.values import make_job
from trainer_svc.jobs.events import CheckpointSaved
from trainer_svc.jobs.model import JobState
from trainer_svc.jobs.store import JobStore
from trainer_svc.protocol import Reported

ATTEMPTS = 20


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer_svc.dispatch.losses._SECONDS", (0.001,))


async def fail(worker: ScriptedWorker, times: int, *, checkpoint: bool = False) -> None:
    for number in range(times):
        async with asyncio.timeout(20):
            await worker.held.wait()
        worker.held.clear()
        if checkpoint:
            event = CheckpointSaved(step=number + 1)
            worker.say(Reported(lease=worker.assignment.lease, event=event))
        worker.fail(retryable=True, reason="STORE_UNAVAILABLE")


async def test_a_job_that_gets_on_is_tried_again_however_often(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    worker = ScriptedWorker(object_store, hold="step-1")
    job = await jobs.create(make_job(), "", "a" * 64)
    async with running(make(ScriptedExecutor(object_store, worker))):
        await fail(worker, ATTEMPTS + 1, checkpoint=True)
        await worker.held.wait()
        worker.go_on()
        found = await ended(jobs, job.name, JobState.PAUSED)
    assert (found.state, found.lease_epoch) == (JobState.SUCCEEDED, ATTEMPTS + 2)


async def test_a_job_that_is_resumed_is_tried_as_often_again(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    worker = ScriptedWorker(object_store, hold="prepared")
    job = await jobs.create(make_job(), "", "a" * 64)
    dispatcher = make(ScriptedExecutor(object_store, worker))
    async with running(dispatcher):
        for tried in (ATTEMPTS, 2 * ATTEMPTS):
            await fail(worker, ATTEMPTS)
            found = await ended(jobs, job.name, JobState.PAUSED)
            assert (found.state, found.lease_epoch) == (JobState.PAUSED, tried)
            await jobs.request_resume(job.name)
            dispatcher.wake()
        await worker.held.wait()
        worker.go_on()
        assert (await ended(jobs, job.name)).state is JobState.SUCCEEDED
