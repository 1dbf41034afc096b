"""Which command reaches which lease."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tailorbird.errors import Unavailable
from tests.unit.trainer_svc.engine.tiny import later
from tests.unit.trainer_svc.engine.working import LONG, Working
from trainer_svc.engine.base import load_base
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.jobs.events import Prepared, StepProgress
from trainer_svc.protocol import (
    Cancel,
    Cancelled,
    Failed,
    Start,
    Suspend,
    Suspended,
    Upload,
)


@pytest_asyncio.fixture
async def working(bank: AdapterBank, tmp_path: Path) -> AsyncIterator[Working]:
    working = Working(bank, tmp_path)
    yield working
    working.store.go_on.set()
    await asyncio.to_thread(working.steps.close)


async def test_an_older_lease_of_the_job_is_ended_before_the_newer_one_begins(
    working: Working,
) -> None:
    job = await working.start("twice", hyperparameters=LONG)
    await working.until(StepProgress, job.lease)
    newest = later(later(job))
    working.worker.take(Start(assignment=later(job)))
    working.worker.take(Start(assignment=newest))
    await working.until(StepProgress, newest.lease)
    kinds = [(lease.epoch, type(said)) for lease, said in working.heard]
    assert [kind for epoch, kind in kinds if epoch == 2] == [Cancelled]
    ends = [index for index, (epoch, _) in enumerate(kinds) if epoch < 3]
    assert kinds[ends[-1]] == (2, Cancelled)
    assert (1, Cancelled) in kinds[: ends[-1]]
    assert min(i for i, (epoch, _) in enumerate(kinds) if epoch == 3) > ends[-1]
    assert len(working.left_behind) == 1
    working.worker.take(Suspend(lease=newest.lease))
    await working.until(Suspended, newest.lease)


async def test_a_lease_that_waits_for_an_older_one_can_be_ended(working: Working) -> None:
    working.store.waits = "datasets"
    job = await working.start("waits", hyperparameters=LONG)
    await working.store.waiting.wait()
    working.worker.take(Start(assignment=later(job)))
    working.worker.take(Suspend(lease=later(job).lease))
    await working.until(Suspended, later(job).lease)
    assert [type(said) for _, said in working.heard] == [Cancelled, Suspended]


async def test_a_start_that_comes_twice_is_one(working: Working) -> None:
    job = await working.start("again", hyperparameters=LONG)
    working.worker.take(Start(assignment=job))
    await working.until(StepProgress, job.lease)
    working.worker.take(Cancel(lease=job.lease))
    await working.until(Cancelled, job.lease)
    assert sum(isinstance(said, Prepared | Cancelled) for said in working.of(job.lease)) == 2


async def test_a_lease_that_has_ended_is_forgotten(working: Working) -> None:
    job = await working.start("ended", hyperparameters=LONG)
    await working.until(StepProgress, job.lease)
    working.worker.take(Cancel(lease=job.lease))
    await working.until(Cancelled, job.lease)
    await asyncio.gather(*working.worker._tasks.values())
    assert not working.worker._leases
    assert not working.worker._tasks


async def test_what_one_worker_tokenised_another_finds(
    working: Working, tmp_path: Path, base_path: str
) -> None:
    first = await working.start("first", hyperparameters=LONG)
    found = await working.until(Prepared, first.lease)
    other = Working(AdapterBank(load_base(base_path, "cpu")), tmp_path, "worker-1")
    try:
        # Whoever asks the store for the data waits for ever.
        other.store.waits = "datasets"
        second = await other.start("second", hyperparameters=LONG)
        assert await other.until(Prepared, second.lease) == found
        for each, lease in ((working, first.lease), (other, second.lease)):
            await each.until(StepProgress, lease)
            each.worker.take(Cancel(lease=lease))
            await each.until(Cancelled, lease)
    finally:
        await asyncio.to_thread(other.steps.close)


async def test_what_belongs_to_no_lease_here_is_dropped(working: Working) -> None:
    job = await working.start("alone", hyperparameters=LONG)
    await working.until(StepProgress, job.lease)
    for command in (
        Cancel(lease=later(job).lease),
        Suspend(lease=later(job).lease),
        Upload(lease=later(job).lease, version="20261120T153000-alone-1"),
    ):
        working.worker.take(command)
    working.worker.take(Cancel(lease=job.lease))
    await working.until(Cancelled, job.lease)
    assert {lease for lease, _ in working.heard} == {job.lease}


async def test_the_end_of_the_step_thread_is_heard(working: Working) -> None:
    ended = asyncio.create_task(asyncio.to_thread(working.steps.wait))
    await asyncio.to_thread(working.steps.close)
    async with asyncio.timeout(30):
        await ended
    assert isinstance(working.steps.call(int).exception(), Unavailable)


async def test_a_job_for_another_base_is_refused(working: Working) -> None:
    job = await working.start("elsewhere", base_model_digest="sha256:other")
    failed = await working.until(Failed, job.lease)
    assert (failed.error.reason, failed.retryable) == ("BASE_MISMATCH", False)
