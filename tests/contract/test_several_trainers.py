"""Several trainers on one database: no job runs twice, none is lost with its trainer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tailorbird.names import JobName
from tailorbird.object_store import ObstoreStore
from tests.contract.trainers import LONG, SHORT, Trainers, in_state, queue, trainers
from tests.unit.trainer_svc.dispatching import states
from tests.unit.trainer_svc.fakes import ScriptedWorker, published
from trainer_svc.jobs.events import StepProgress
from trainer_svc.jobs.leases import Kept
from trainer_svc.jobs.model import JobState
from trainer_svc.protocol import Cancel, Suspend


@pytest.fixture(params=["sqlite", "postgresql"])
async def world(
    request: pytest.FixtureRequest, object_store: ObstoreStore, tmp_path: Path
) -> AsyncIterator[Trainers]:
    url: str = request.getfixturevalue(f"{request.param}_url")
    async with trainers(url, object_store, tmp_path) as made:
        yield made


async def test_trainers_that_start_together_share_the_jobs(world: Trainers) -> None:
    first = world.start(jobs_per_worker=4)
    others = [world.start(jobs_per_worker=4) for _ in range(2)]
    made = await queue(first.jobs, *(f"job-{number:02}" for number in range(24)))
    for job in made:
        found = await in_state(first.jobs, job.name)
        assert (found.state, found.lease_epoch) == (JobState.SUCCEEDED, 1)
        assert await states(first.jobs, job.name) == [
            "QUEUED", "PREPARING", "RUNNING", "EVALUATING", "PUBLISHING", "SUCCEEDED",
        ]  # fmt: skip
    ran = [
        job for each in (first, *others) for worker in each.executor.started for job in worker.jobs
    ]
    assert sorted(ran) == [job.name.job for job in made]
    assert len(await published(world.store)) == len(made)


async def test_a_trainer_that_is_gone_is_followed_by_another(world: Trainers) -> None:
    first = world.start(held := world.worker(hold="step-2"), lease=SHORT)
    (job,) = await queue(first.jobs, "one")
    await held.held.wait()
    await in_state(first.jobs, job.name, JobState.RUNNING)
    second = world.start(lease=SHORT)
    await first.vanish()
    found = await in_state(second.jobs, job.name)
    assert (found.state, found.lease_epoch) == (JobState.SUCCEEDED, 2)
    assert await states(second.jobs, job.name) == [
        "QUEUED", "PREPARING", "RUNNING", "QUEUED", "PREPARING", "RUNNING", "EVALUATING",
        "PUBLISHING", "SUCCEEDED",
    ]  # fmt: skip


async def test_a_trainer_that_goes_on_keeps_its_jobs_for_many_lease_times(
    world: Trainers, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = world.start(held := world.worker(hold="step-2"), lease=SHORT)
    (job,) = await queue(first.jobs, "one")
    await held.held.wait()
    kept: asyncio.Queue[set[JobName]] = asyncio.Queue()
    keep = first.jobs.keep_leases

    async def noted(owner: str) -> dict[JobName, Kept]:
        found = await keep(owner)
        kept.put_nowait(set(found))
        return found

    monkeypatch.setattr(first.jobs, "keep_leases", noted)
    second = world.start(lease=SHORT)
    for _ in range(10):
        # Four times in the time of a lease.
        assert await kept.get() == {job.name}
    assert not any(worker.jobs for worker in second.executor.started)
    held.go_on()
    found = await in_state(first.jobs, job.name)
    assert (found.state, found.lease_epoch) == (JobState.SUCCEEDED, 1)


async def test_a_committed_version_is_published_by_another_trainer(
    world: Trainers, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = world.start(lease=SHORT)
    committed = asyncio.Event()

    async def hang(*_: object) -> None:
        committed.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(first.dispatcher._publisher, "finish", hang)
    (job,) = await queue(first.jobs, "one")
    await committed.wait()
    second = world.start(lease=SHORT)
    await first.vanish()
    found = await in_state(second.jobs, job.name)
    assert (found.state, found.promoted) == (JobState.SUCCEEDED, True)
    assert found.version.endswith("-one-1")
    assert len(await published(world.store)) == 1
    assert not any(worker.jobs for worker in second.executor.started)


@pytest.mark.parametrize("asked", ["cancel", "pause"])
async def test_what_is_asked_at_one_trainer_reaches_the_worker_of_another(
    world: Trainers, asked: str
) -> None:
    # A PostgreSQL tells the first at once; its next beat would come in a quarter of an hour.
    lease = 3600.0 if world.url.startswith("postgresql") else LONG
    first = world.start(held := world.worker(hold="step-2"), lease=lease)
    (job,) = await queue(first.jobs, "one")
    await held.held.wait()
    await in_state(first.jobs, job.name, JobState.RUNNING)
    second = world.start()
    if asked == "cancel":
        await second.jobs.request_cancel(job.name)
        found = await in_state(second.jobs, job.name)
        assert found.state is JobState.CANCELLED
    else:
        await second.jobs.request_pause(job.name)
        found = await in_state(second.jobs, job.name, JobState.PAUSED)
        assert found.state is JobState.PAUSED
    assert held.told(Cancel if asked == "cancel" else Suspend)[:1] == ["one"]


async def test_a_trainer_whose_lease_another_took_changes_nothing_more(
    world: Trainers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none(*_: object, **__: object) -> None:
        """The first trainer takes up nothing more: it would take its own job again."""

    first = world.start(zombie := world.worker(hold="step-2", only="one"))
    (job,) = await queue(first.jobs, "one")
    await zombie.held.wait()
    await in_state(first.jobs, job.name, JobState.RUNNING)
    monkeypatch.setattr(first.jobs, "claim", none)
    # As if it had stood still past its lease.
    await first.jobs.take_back("")
    second = world.start(other := world.worker(hold="step-3"))
    await other.held.wait()
    zombie.go_on()
    other.go_on()
    found = await in_state(second.jobs, job.name)
    assert (found.state, found.lease_epoch) == (JobState.SUCCEEDED, 2)
    told = await second.jobs.events(job.name, 0, 100)
    steps = [event.payload.step for event in told if isinstance(event.payload, StepProgress)]
    assert steps[-4:] == [1, 2, 3, 4]
    assert steps[:-4] in ([1], [1, 2])
    assert zombie.told(Cancel)[:1] == ["one"]
    assert len(await published(world.store)) == 1


async def failing_for_ever(worker: ScriptedWorker) -> None:
    while True:
        await worker.held.wait()
        worker.held.clear()
        worker.fail(retryable=True, reason="STORE_UNAVAILABLE")


async def test_a_job_that_always_fails_holds_up_nobody(world: Trainers) -> None:
    trainer = world.start(failing := world.worker(hold="prepared", only="bad"))
    (bad,) = await queue(trainer.jobs, "bad")
    good = await queue(trainer.jobs, *(f"good-{number:02}" for number in range(20)))
    failed = asyncio.create_task(failing_for_ever(failing))
    for job in good:
        assert (await in_state(trainer.jobs, job.name)).state is JobState.SUCCEEDED
    found = await trainer.jobs.get(bad.name)
    failed.cancel()
    assert failing.jobs[0] == "bad"
    # Without its pauses it would have been tried to the end by now, and nobody else begun.
    assert found.state is not JobState.PAUSED
    assert found.lease_epoch < 20


async def test_a_job_that_always_fails_is_paused_in_the_end(
    world: Trainers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer_svc.dispatch.losses._SECONDS", (0.001,))
    trainer = world.start(failing := world.worker(hold="prepared", only="bad"))
    failed = asyncio.create_task(failing_for_ever(failing))
    (bad,) = await queue(trainer.jobs, "bad")
    found = await in_state(trainer.jobs, bad.name, JobState.PAUSED)
    failed.cancel()
    assert found.state is JobState.PAUSED
    assert found.error is not None
    assert found.error.reason == "STORE_UNAVAILABLE"
    assert found.error.message.startswith("tried 20 times in a row; last: ")
    assert found.lease_epoch == 20
