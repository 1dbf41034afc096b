"""Jobs that are held back while the dispatcher has them, and go on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tailorbird.object_store import ObstoreStore
from tests.unit.trainer_svc.dispatching import Make, ended, running
from tests.unit.trainer_svc.fakes import ScriptedExecutor, ScriptedWorker
from tests.unit.trainer_svc.values import make_job
from trainer_svc.jobs.events import JobWarning
from trainer_svc.jobs.model import JobError, JobState
from trainer_svc.jobs.store import JobStore
from trainer_svc.protocol import Cancel, Reported, Start, Suspend, Suspended, Upload


async def test_a_running_job_is_paused_and_goes_on(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    worker = ScriptedWorker(object_store, hold="step-2", only="one")
    dispatcher = make(ScriptedExecutor(object_store, worker))
    job = await jobs.create(make_job(), "", "a" * 64)
    async with running(dispatcher):
        await worker.held.wait()
        await jobs.request_pause(job.name)
        await dispatcher.pause(job.name)
        assert (await ended(jobs, job.name, JobState.PAUSED)).state is JobState.PAUSED
        other = await jobs.create(make_job("two"), "", "b" * 64)
        dispatcher.wake()
        assert (await ended(jobs, other.name)).state is JobState.SUCCEEDED
        assert worker.jobs == ["one", "two"]
        worker.hold = ""
        await jobs.request_resume(job.name)
        dispatcher.wake()
        assert (await ended(jobs, job.name)).lease_epoch == 2


async def test_a_job_that_goes_on_warns_of_nothing_again(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    few = JobWarning(reason="FEW_RECORDS", message="there are few")
    other = JobWarning(reason="FEW_RECORDS", message="there are fewer")
    worker = ScriptedWorker(object_store, hold="step-2")
    dispatcher = make(ScriptedExecutor(object_store, worker))
    job = await jobs.create(make_job(), "", "a" * 64)
    async with running(dispatcher):
        await worker.held.wait()
        worker.say(Reported(lease=worker.assignment.lease, event=few))
        await jobs.request_pause(job.name)
        await dispatcher.pause(job.name)
        await ended(jobs, job.name, JobState.PAUSED)
        worker.held.clear()
        await jobs.request_resume(job.name)
        dispatcher.wake()
        await worker.held.wait()
        for warning in (few, other):
            worker.say(Reported(lease=worker.assignment.lease, event=warning))
        worker.go_on()
        await ended(jobs, job.name)
    history = await jobs.events(job.name, 0, 100)
    assert [e.payload for e in history if isinstance(e.payload, JobWarning)] == [few, other]


@pytest.mark.parametrize(("request_", "kind"), [("pause", Suspend), ("cancel", Cancel)])
async def test_what_is_asked_before_the_start_is_not_lost(
    make: Make,
    jobs: JobStore,
    object_store: ObstoreStore,
    monkeypatch: pytest.MonkeyPatch,
    request_: str,
    kind: type[Cancel | Suspend],
) -> None:
    worker = ScriptedWorker(object_store, hold="step-2")
    dispatcher = make(ScriptedExecutor(object_store, worker))
    job = await jobs.create(make_job(), "", "a" * 64)
    claim = jobs.claim

    async def claim_then_ask(*args: Any, **kwargs: Any) -> Any:
        claimed = await claim(*args, **kwargs)
        if claimed is not None:
            await getattr(jobs, f"request_{request_}")(job.name)
            await getattr(dispatcher, request_)(job.name)
        return claimed

    monkeypatch.setattr(jobs, "claim", claim_then_ask)
    async with running(dispatcher):
        found = await ended(jobs, job.name, JobState.PAUSED)
    assert found.state is (JobState.PAUSED if request_ == "pause" else JobState.CANCELLED)
    assert worker.told(kind) == ["one"]


async def test_a_job_that_is_suspended_before_its_start_never_starts(
    make: Make, jobs: JobStore, object_store: ObstoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = ScriptedWorker(object_store)
    dispatcher = make(ScriptedExecutor(object_store, worker))
    job = await jobs.create(make_job(), "", "a" * 64)
    claim = jobs.claim

    async def claim_then_stop(*args: Any, **kwargs: Any) -> Any:
        claimed = await claim(*args, **kwargs)
        if claimed is not None:
            await dispatcher.stop()
        return claimed

    monkeypatch.setattr(jobs, "claim", claim_then_stop)
    await dispatcher.run()
    assert (await jobs.get(job.name)).state is JobState.QUEUED
    assert worker.jobs == []


class Strict(ScriptedWorker):
    """A worker that drops what comes before a lease's Start, as a real one does."""

    async def send(self, command: Start | Upload | Cancel | Suspend) -> None:
        if isinstance(command, Start) or command.lease in self._rest:
            await super().send(command)


async def test_a_stop_while_a_job_is_looked_up_is_not_lost(
    make: Make, jobs: JobStore, object_store: ObstoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Strict(object_store, hold="step-2")
    dispatcher = make(ScriptedExecutor(object_store, worker))
    job = await jobs.create(make_job(), "", "a" * 64)
    of = dispatcher._assignments.of

    async def stopped_meanwhile(*args: Any) -> Any:
        await dispatcher.stop()
        return await of(*args)

    monkeypatch.setattr(dispatcher._assignments, "of", stopped_meanwhile)
    async with asyncio.timeout(20):
        await dispatcher.run()
    assert (await jobs.get(job.name)).state is JobState.QUEUED
    assert [command.kind for command in worker.commands] == ["start", "suspend"]


async def test_a_worker_whose_disk_is_full_pauses_the_job_with_the_reason(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    worker = ScriptedWorker(object_store, hold="step-2", only="one")
    dispatcher = make(ScriptedExecutor(object_store, worker), jobs_per_worker=2)
    job = await jobs.create(make_job(), "", "a" * 64)
    other = await jobs.create(make_job("two"), "", "b" * 64)
    error = JobError(reason="DISK_FULL", message="the trainer's disk is full")
    async with running(dispatcher):
        await worker.held.wait()
        one = next(c.lease for c in worker.commands if c.lease.job.endswith("/one"))
        worker.say(Suspended(lease=one, error=error))
        found = await ended(jobs, job.name, JobState.PAUSED)
        assert (await ended(jobs, other.name)).state is JobState.SUCCEEDED
    assert (found.state, found.error) == (JobState.PAUSED, error)


async def test_a_paused_job_survives_a_restart(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    job = await jobs.create(make_job(), "", "a" * 64)
    await jobs.request_pause(job.name)
    other = await jobs.create(make_job("two"), "", "b" * 64)
    dispatcher = make(ScriptedExecutor(object_store))
    await dispatcher.recover()
    async with running(dispatcher):
        await ended(jobs, other.name)
    assert (await jobs.get(job.name)).state is JobState.PAUSED
