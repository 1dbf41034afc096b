"""A worker that takes nothing it is told, while others' leases are to be kept."""

from __future__ import annotations

import asyncio

import pytest

from tailorbird.names import JobName
from tailorbird.object_store import ObstoreStore
from tests.unit.trainer_svc.dispatching import Make, ended, running
from tests.unit.trainer_svc.fakes import ScriptedExecutor, ScriptedWorker
from tests.unit.trainer_svc.values import make_job
from trainer_svc.jobs.leases import Kept
from trainer_svc.jobs.model import JobState
from trainer_svc.jobs.store import JobStore
from trainer_svc.protocol import Cancel, Start, Suspend, Upload


class Deaf(ScriptedWorker):
    """Takes no Cancel."""

    async def send(self, command: Start | Upload | Cancel | Suspend) -> None:
        if isinstance(command, Cancel):
            await asyncio.Event().wait()
        await super().send(command)


async def test_it_holds_up_no_beat(
    make: Make, jobs: JobStore, object_store: ObstoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer_svc.dispatch.runner._TELL_SECONDS", 1000.0)
    jobs.lease_seconds = 0.4
    asked: asyncio.Queue[bool] = asyncio.Queue()
    keep = jobs.keep_leases

    async def kept(owner: str) -> dict[JobName, Kept]:
        found = await keep(owner)
        asked.put_nowait(any(each.cancel_requested for each in found.values()))
        return found

    monkeypatch.setattr(jobs, "keep_leases", kept)
    worker = Deaf(object_store, hold="step-2")
    job = await jobs.create(make_job(), "", "a" * 64)
    async with asyncio.timeout(20), running(make(ScriptedExecutor(object_store, worker))):
        await worker.held.wait()
        await jobs.request_cancel(job.name)
        for _ in range(3):
            while not await asked.get():
                pass
        worker.go_on()
        assert (await ended(jobs, job.name)).state is JobState.CANCELLED
