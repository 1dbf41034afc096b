"""Several leases on one worker: who joins whom, and what a death of the worker costs each."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from tailorbird.object_store import ObstoreStore
from tests.unit.trainer_svc.dispatching import Make, ended, running
from tests.unit.trainer_svc.fakes import PREPARED, READY, ScriptedExecutor, ScriptedWorker, step
from tests.unit.trainer_svc.values import make_job
from trainer_svc.jobs.fence import GivenBack, Lease, Write
from trainer_svc.jobs.model import Faults, Isolation, Job, JobState, Left
from trainer_svc.jobs.store import JobStore
from trainer_svc.protocol import (
    OUT_OF_MEMORY,
    TOKENISING_LOST,
    Assignment,
    Cancel,
    Cancelled,
    LeaseKey,
    Reported,
    Start,
    Suspend,
    Upload,
)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer_svc.dispatch.backoff._SECONDS", (0.001,))
    monkeypatch.setattr("trainer_svc.dispatch.losses._SECONDS", (0.001,))


def exclusive(name: str) -> Job:
    job = make_job(name)
    spec = job.spec.model_copy(update={"isolation": Isolation.EXCLUSIVE})
    return job.model_copy(update={"spec": spec})


async def add(jobs: JobStore, *made: Job) -> list[Job]:
    return [await jobs.create(job, "", "a" * 64) for job in made]


async def in_state(jobs: JobStore, job: Job, state: JobState) -> Job:
    found = await ended(jobs, job.name, state)
    assert found.state is state
    return found


async def test_a_worker_has_many_jobs_at_a_time(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    worker = ScriptedWorker(object_store, hold="step-2")
    made = await add(jobs, *(make_job(f"job-{number}") for number in range(4)))
    async with running(make(ScriptedExecutor(object_store, worker), jobs_per_worker=3)):
        for job in made[:3]:
            await in_state(jobs, job, JobState.RUNNING)
        assert (await jobs.get(made[3].name)).state is JobState.QUEUED
        worker.go_on()
        for job in made:
            await in_state(jobs, job, JobState.SUCCEEDED)
    # What each needs is looked up at the same time.
    assert sorted(worker.jobs[:3]) == ["job-0", "job-1", "job-2"]
    assert worker.jobs[3:] == ["job-3"]


async def test_a_worker_s_memory_is_shown_while_the_worker_lives(
    make: Make, jobs: JobStore, object_store: ObstoreStore, registry: CollectorRegistry
) -> None:
    def shown() -> float | None:
        return registry.get_sample_value("tailorbird_trainer_worker_memory_bytes", {"worker": "0"})

    worker = ScriptedWorker(object_store, hold="step-2")
    (job,) = await add(jobs, make_job())
    assert shown() is None
    async with running(make(ScriptedExecutor(object_store, worker))):
        async with asyncio.timeout(20):
            await worker.held.wait()
        await in_state(jobs, job, JobState.RUNNING)
        assert shown() == 2**33
        worker.go_on()
        await in_state(jobs, job, JobState.SUCCEEDED)
    assert shown() is None


async def test_a_failure_ends_its_own_job_only(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    worker = ScriptedWorker(object_store, hold="step-2")
    executor = ScriptedExecutor(object_store, worker)
    one, two = await add(jobs, make_job("one"), make_job("two"))
    async with running(make(executor, jobs_per_worker=2)):
        for job in (one, two):
            await in_state(jobs, job, JobState.RUNNING)
        worker.fail()
        await in_state(jobs, two, JobState.FAILED)
        worker.go_on()
        await in_state(jobs, one, JobState.SUCCEEDED)
    assert len(executor.started) == 1


async def test_reports_of_a_lease_that_nobody_holds_are_dropped(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    worker = ScriptedWorker(object_store, hold="step-1")
    (job,) = await add(jobs, make_job())
    async with running(make(ScriptedExecutor(object_store, worker))):
        await worker.held.wait()
        held = worker.assignment.lease
        for stray in (
            LeaseKey(job=held.job, epoch=held.epoch + 1),
            LeaseKey(job="tenants/other/jobs/one", epoch=held.epoch),
        ):
            worker.say(Reported(lease=stray, event=step(9)))
            worker.say(Cancelled(lease=stray))
        worker.say(READY)
        worker.go_on()
        await in_state(jobs, job, JobState.SUCCEEDED)
    steps = [e.payload for e in await jobs.events(job.name, 0, 100)]
    assert step(9) not in steps


async def test_a_lost_worker_gives_back_each_of_its_jobs(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    first = ScriptedWorker(object_store, hold="step-2")
    executor = ScriptedExecutor(object_store, first)
    made = await add(jobs, make_job("one"), make_job("two"))
    async with running(make(executor, jobs_per_worker=2)):
        for job in made:
            await in_state(jobs, job, JobState.RUNNING)
        first.die()
        for job in made:
            assert (await in_state(jobs, job, JobState.SUCCEEDED)).lease_epoch == 2
    assert first.closed.is_set()


async def test_the_job_that_kills_workers_is_found_and_the_others_go_on(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    killers = [ScriptedWorker(object_store, death="step-3", only="bad") for _ in range(3)]
    executor = ScriptedExecutor(object_store, *killers)
    made = await add(jobs, *(make_job(name) for name in ("good", "bad", "fine")))
    async with running(make(executor, jobs_per_worker=3)):
        found = await in_state(jobs, made[1], JobState.FAILED)
        for job in (made[0], made[2]):
            await in_state(jobs, job, JobState.SUCCEEDED)
    assert found.error is not None
    assert found.error.reason == "WORKER_LOST"
    assert "3 times" in found.error.message


async def test_a_job_with_a_loss_has_the_next_worker_for_itself(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    first = ScriptedWorker(object_store, hold="step-2")
    second = ScriptedWorker(object_store, hold="step-2")
    made = await add(jobs, make_job("one"), make_job("two"))
    dispatcher = make(ScriptedExecutor(object_store, first, second), jobs_per_worker=4)
    async with running(dispatcher):
        for job in made:
            await in_state(jobs, job, JobState.RUNNING)
        first.die()
        await second.held.wait()
        (new,) = await add(jobs, make_job("new"))
        dispatcher.wake()
        await jobs.counts()
        assert second.jobs in (["one"], ["two"])
        second.go_on()
        for job in (*made, new):
            await in_state(jobs, job, JobState.SUCCEEDED)
    assert sorted(second.jobs) == ["new", "one", "two"]


async def test_a_job_that_found_no_memory_has_its_next_worker_for_itself(
    make: Make, jobs: JobStore, object_store: ObstoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, counts = asyncio.Event(), jobs.counts

    async def counted() -> dict[JobState, int]:
        looked.set()
        return await counts()

    monkeypatch.setattr(jobs, "counts", counted)
    worker = ScriptedWorker(object_store, hold="step-2")
    one, two = await add(jobs, make_job("one"), make_job("two"))
    dispatcher = make(ScriptedExecutor(object_store, worker), jobs_per_worker=4)
    async with running(dispatcher):
        for job in (one, two):
            await in_state(jobs, job, JobState.RUNNING)
        worker.fail(retryable=True, reason=OUT_OF_MEMORY)
        await in_state(jobs, two, JobState.QUEUED)
        worker.held.clear()
        worker.go_on()
        worker.hold, worker.only = "step-2", "two"
        await in_state(jobs, one, JobState.SUCCEEDED)
        await worker.held.wait()
        (new,) = await add(jobs, make_job("new"))
        for _ in range(2):
            looked.clear()
            dispatcher.wake()
            await looked.wait()
        assert (await jobs.get(new.name)).state is JobState.QUEUED
        assert worker.jobs == ["one", "two", "two"]
        worker.go_on()
        for job in (two, new):
            assert (await in_state(jobs, job, JobState.SUCCEEDED)).lease_epoch <= 2


@pytest.mark.parametrize("times", [2, 3])
async def test_a_job_whose_data_ends_three_processes_fails(
    make: Make, jobs: JobStore, object_store: ObstoreStore, times: int
) -> None:
    worker = ScriptedWorker(object_store, hold="prepared")
    (job,) = await add(jobs, make_job())
    async with running(make(ScriptedExecutor(object_store, worker))):
        for _ in range(times):
            await worker.held.wait()
            worker.held.clear()
            worker.fail(retryable=True, reason=TOKENISING_LOST)
        if times == 2:
            await worker.held.wait()
            worker.go_on()
        found = await ended(jobs, job.name)
    assert (found.state is JobState.FAILED) is (times == 3)
    assert found.lease_epoch == 3
    assert found.error is None or found.error.reason == TOKENISING_LOST


async def test_a_store_that_is_down_again_and_again_fails_no_job(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    worker = ScriptedWorker(object_store, hold="prepared")
    (job,) = await add(jobs, make_job())
    async with running(make(ScriptedExecutor(object_store, worker))):
        for _ in range(4):
            await worker.held.wait()
            worker.held.clear()
            worker.fail(retryable=True, reason="STORE_UNAVAILABLE")
        await worker.held.wait()
        worker.go_on()
        found = await in_state(jobs, job, JobState.SUCCEEDED)
    assert found.lease_epoch == 5


async def test_a_job_whose_data_ended_a_process_shares_its_worker_and_waits_longer_each_time(
    make: Make, jobs: JobStore, object_store: ObstoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = (0.001, 0.002)
    monkeypatch.setattr("trainer_svc.dispatch.losses._SECONDS", pauses)
    given, release = list[GivenBack](), jobs.release

    async def noted(write: Write, back: GivenBack) -> Left | None:
        given.append(back)
        return await release(write, back)

    monkeypatch.setattr(jobs, "release", noted)
    worker = ScriptedWorker(object_store, hold="prepared")
    (lost,) = await add(jobs, make_job("lost"))
    dispatcher = make(ScriptedExecutor(object_store, worker), jobs_per_worker=4)
    async with running(dispatcher):
        for _ in range(2):
            await worker.held.wait()
            worker.held.clear()
            worker.fail(retryable=True, reason=TOKENISING_LOST)
        await worker.held.wait()
        (new,) = await add(jobs, make_job("new"))
        dispatcher.wake()
        await in_state(jobs, new, JobState.PREPARING)
        assert (await jobs.get(lost.name)).state is JobState.PREPARING
        worker.go_on()
        for job in (lost, new):
            await in_state(jobs, job, JobState.SUCCEEDED)
    assert worker.jobs == ["lost", "lost", "lost", "new"]
    assert [back.pause for back in given] == list(pauses)


@pytest.mark.parametrize("phase", ["idle", "before its start"])
async def test_a_worker_that_dies_with_no_job_at_work_costs_no_life(
    make: Make, jobs: JobStore, object_store: ObstoreStore, phase: str
) -> None:
    dying = [ScriptedWorker(object_store) for _ in range(4)]
    for worker in dying:
        if phase == "idle":
            worker.die()
        else:
            await worker.close()
    executor = ScriptedExecutor(object_store, *dying)
    (job,) = await add(jobs, make_job())
    dispatcher = make(executor)
    async with running(dispatcher):
        await in_state(jobs, job, JobState.SUCCEEDED)
    assert len(executor.started) == 5


class Deaf(ScriptedWorker):
    """A worker whose end nobody hears of who sends it something."""

    async def send(self, command: Start | Upload | Cancel | Suspend) -> None:
        self.commands.append(command)


async def test_a_worker_that_is_lost_while_a_job_is_looked_up_gets_no_start(
    make: Make, jobs: JobStore, object_store: ObstoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = Deaf(object_store)
    dispatcher = make(ScriptedExecutor(object_store, lost))
    of = dispatcher._assignments.of

    async def lost_meanwhile(lease: Lease, job: Job, at_once: int) -> Assignment:
        found = await of(lease, job, at_once)
        lost.die()
        await lost.closed.wait()
        return found

    monkeypatch.setattr(dispatcher._assignments, "of", lost_meanwhile)
    (job,) = await add(jobs, make_job())
    async with running(dispatcher):
        await in_state(jobs, job, JobState.SUCCEEDED)
    assert lost.commands == []


async def test_a_job_that_kills_its_worker_in_preparation_is_alone_and_then_fails(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    killers = [ScriptedWorker(object_store, death="prepared", only="bad") for _ in range(4)]
    executor = ScriptedExecutor(object_store, *killers)
    bad, good = await add(jobs, make_job("bad"), make_job("good"))
    async with running(make(executor, jobs_per_worker=2)):
        await in_state(jobs, bad, JobState.FAILED)
        await in_state(jobs, good, JobState.SUCCEEDED)
    # The first death made it a suspect, the next three were its own.
    assert [worker.jobs.count("bad") for worker in killers] == [1, 1, 1, 1]


async def test_a_death_in_preparation_costs_no_life(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    lost = ScriptedWorker(object_store, death="prepared")
    executor = ScriptedExecutor(object_store, lost)
    killers = [ScriptedWorker(object_store, death="step-1") for _ in range(2)]
    executor.waiting += killers
    (job,) = await add(jobs, make_job())
    async with running(make(executor)):
        found = await in_state(jobs, job, JobState.SUCCEEDED)
    # Three deaths of its own would have failed it.
    assert (found.lease_epoch, len(executor.started)) == (4, 4)


async def test_workers_that_somebody_ends_count_for_no_job(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    killed = [ScriptedWorker(object_store, death="step-1") for _ in range(4)]
    for worker in killed:
        worker.from_outside = True
    (job,) = await add(jobs, make_job())
    async with running(make(ScriptedExecutor(object_store, *killed))):
        found = await in_state(jobs, job, JobState.SUCCEEDED)
    assert found.lease_epoch == 5
    assert found.faults == Faults()


async def test_an_exclusive_job_shares_its_worker_with_nobody(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    worker = ScriptedWorker(object_store, hold="step-2")
    before, alone, after = await add(
        jobs, make_job("before"), exclusive("alone"), make_job("after")
    )
    dispatcher = make(ScriptedExecutor(object_store, worker), jobs_per_worker=4)
    async with running(dispatcher):
        await in_state(jobs, before, JobState.RUNNING)
        # It waits at the head of the queue, and nobody overtakes it.
        assert worker.jobs == ["before"]
        worker.go_on()
        worker.hold, worker.only = "step-2", "alone"
        await in_state(jobs, alone, JobState.RUNNING)
        assert (await jobs.get(before.name)).state is JobState.SUCCEEDED
        dispatcher.wake()
        await worker.held.wait()
        assert (await jobs.get(after.name)).state is JobState.QUEUED
        worker.go_on()
        await in_state(jobs, after, JobState.SUCCEEDED)
    assert worker.jobs == ["before", "alone", "after"]


async def test_a_run_that_ended_for_want_of_something_leaves_the_others_their_turn(
    make: Make, jobs: JobStore, object_store: ObstoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer_svc.dispatch.losses._SECONDS", (0.2,))
    worker = ScriptedWorker(object_store, hold="step-2", only="one")
    one, two = await add(jobs, make_job("one"), make_job("two"))
    async with running(make(ScriptedExecutor(object_store, worker))):
        await worker.held.wait()
        worker.fail(retryable=True)
        await in_state(jobs, two, JobState.SUCCEEDED)
        worker.hold = ""
        await in_state(jobs, one, JobState.SUCCEEDED)
    assert worker.jobs == ["one", "two", "one"]


async def test_a_job_whose_dataset_is_gone_costs_nobody_a_worker(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    one = make_job("one")
    spec = one.spec.model_copy(update={"training_dataset": "tenants/acme/datasets/none"})
    gone, two = await add(jobs, one.model_copy(update={"spec": spec}), make_job("two"))
    executor = ScriptedExecutor(object_store)
    async with running(make(executor, jobs_per_worker=2)):
        found = await in_state(jobs, gone, JobState.FAILED)
        await in_state(jobs, two, JobState.SUCCEEDED)
    assert found.error is not None
    assert found.error.reason == "DATASET_NOT_FOUND"
    assert len(executor.started) == 1


async def test_a_worker_that_talks_nonsense_of_one_job_keeps_the_others(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    worker = ScriptedWorker(object_store, hold="step-2")
    one, two = await add(jobs, make_job("one"), make_job("two"))
    async with running(make(ScriptedExecutor(object_store, worker), jobs_per_worker=2)):
        for job in (one, two):
            await in_state(jobs, job, JobState.RUNNING)
        worker.say(Reported(lease=worker.assignment.lease, event=PREPARED))
        assert (await in_state(jobs, two, JobState.FAILED)).error is not None
        worker.go_on()
        await in_state(jobs, one, JobState.SUCCEEDED)
    assert worker.told(Cancel) == ["two"]


async def test_a_lease_that_began_during_a_beat_is_not_taken_for_lost(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    worker = ScriptedWorker(object_store, hold="step-2")
    dispatcher = make(ScriptedExecutor(object_store, worker))
    (job,) = await add(jobs, make_job())
    async with running(dispatcher):
        await worker.held.wait()
        # Asked before the job was claimed, answered after.
        await dispatcher.kept({}, {})
        # An earlier lease of the same job, of which nobody is left.
        await dispatcher.kept({job.name: 0}, {})
        worker.go_on()
        found = await in_state(jobs, job, JobState.SUCCEEDED)
    assert found.lease_epoch == 1


async def test_a_silent_worker_is_told_at_once_that_its_lease_is_lost(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    worker = ScriptedWorker(object_store, hold="step-1")
    dispatcher = make(ScriptedExecutor(object_store, worker))
    (job,) = await add(jobs, make_job())
    async with running(dispatcher):
        await in_state(jobs, job, JobState.RUNNING)
        worker.hold = ""
        # As another trainer does when the lease is over.
        await jobs.take_back("")
        await dispatcher.kept({job.name: 1}, {})
        found = await in_state(jobs, job, JobState.SUCCEEDED)
    assert worker.told(Cancel) == ["one"]
    assert found.lease_epoch == 2
