"""What is left of a job when something fails or dies on its way through the dispatcher."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from tailorbird.errors import FailedPrecondition
from tailorbird.object_store import ObstoreStore
from tailorbird.registry import AdapterRegistry
from tests.unit.trainer_svc.dispatching import Make, ended, running
from tests.unit.trainer_svc.fakes import ScriptedExecutor, ScriptedWorker, published
from tests.unit.trainer_svc.values import make_bases, make_job
from trainer_svc.datasets.store import DatasetStore
from trainer_svc.dispatch.dispatcher import Dispatcher
from trainer_svc.dispatch.executor import WorkerLost
from trainer_svc.dispatch.publisher import Publisher
from trainer_svc.jobs.database import DatabaseUnavailable
from trainer_svc.jobs.fence import GivenBack, Write
from trainer_svc.jobs.model import JobState
from trainer_svc.jobs.store import JobStore
from trainer_svc.metrics import TrainerMetrics


async def test_a_lost_worker_is_replaced_and_the_job_goes_on(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    executor = ScriptedExecutor(object_store, ScriptedWorker(object_store, death="step-3"))
    job = await jobs.create(make_job(), "", "a" * 64)
    async with running(make(executor)):
        found = await ended(jobs, job.name)
    assert (found.state, found.lease_epoch) == (JobState.SUCCEEDED, 2)
    assert executor.started[0].closed.is_set()
    assert executor.started[1].assignment.lease.epoch == 2
    assert len(await published(object_store)) == 1


@pytest.mark.parametrize(
    ("failures", "reason"),
    [
        ([FailedPrecondition("no tokenizer", reason="BASE_UNUSABLE")], "BASE_UNUSABLE"),
        ([WorkerLost("killed")] * 3, "WORKER_CANNOT_START"),
    ],
)
async def test_a_trainer_that_can_start_no_worker_ends(
    make: Make, object_store: ObstoreStore, failures: list[Exception], reason: str
) -> None:
    dispatcher = make(ScriptedExecutor(object_store, *failures))
    with pytest.raises(FailedPrecondition) as caught:
        await asyncio.wait_for(dispatcher.run(), 20)
    assert caught.value.reason == reason


@pytest.mark.parametrize("reason", ["RAY_UNREACHABLE", "RAY_NO_ROOM", "RAY_OTHER_RELEASE"])
async def test_jobs_wait_for_a_cluster_however_often_it_is_not_there(
    make: Make, jobs: JobStore, object_store: ObstoreStore, reason: str
) -> None:
    failures = [WorkerLost("no cluster", reason=reason) for _ in range(5)]
    job = await jobs.create(make_job(), "", "a" * 64)
    async with running(make(ScriptedExecutor(object_store, *failures))):
        assert (await ended(jobs, job.name)).state is JobState.SUCCEEDED


async def test_workers_that_are_killed_from_outside_as_they_start_are_followed_by_others(
    make: Make, jobs: JobStore, object_store: ObstoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer_svc.dispatch.backoff._SECONDS", (0.001,))
    failures = [WorkerLost("killed", from_outside=True) for _ in range(5)]
    job = await jobs.create(make_job(), "", "a" * 64)
    async with running(make(ScriptedExecutor(object_store, *failures))):
        assert (await ended(jobs, job.name)).state is JobState.SUCCEEDED


async def test_a_start_that_fails_later_is_tried_again(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    lost = ScriptedWorker(object_store, death="step-3")
    unusable = FailedPrecondition("the base is being moved", reason="BASE_UNUSABLE")
    job = await jobs.create(make_job(), "", "a" * 64)
    async with running(make(ScriptedExecutor(object_store, lost, unusable))):
        assert (await ended(jobs, job.name)).state is JobState.SUCCEEDED


async def test_a_job_that_kills_its_workers_fails(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    killers = [ScriptedWorker(object_store, death="step-1") for _ in range(3)]
    job = await jobs.create(make_job(), "", "a" * 64)
    other = await jobs.create(make_job("two"), "", "b" * 64)
    async with running(make(ScriptedExecutor(object_store, *killers))):
        found = await ended(jobs, job.name)
        assert found.error is not None
        assert found.error.reason == "WORKER_LOST"
        assert (await ended(jobs, other.name)).state is JobState.SUCCEEDED


async def test_a_failed_job_says_why_and_leaves_nothing(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    worker = ScriptedWorker(object_store, hold="evaluating")
    job = await jobs.create(make_job(), "", "a" * 64)
    await object_store.create(f"{job.name}/checkpoints/00000002/manifest.json", b"{}")
    async with running(make(ScriptedExecutor(object_store, worker))):
        await worker.held.wait()
        worker.fail()
        found = await ended(jobs, job.name)
    assert found.state is JobState.FAILED
    assert found.error is not None
    assert found.error.reason == "BROKEN"
    assert [i.key async for i in object_store.objects(str(job.name))] == []


async def test_a_store_that_was_down_fails_no_job(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    worker = ScriptedWorker(object_store, hold="step-2")
    job = await jobs.create(make_job(), "", "a" * 64)
    async with running(make(ScriptedExecutor(object_store, worker))):
        await worker.held.wait()
        worker.hold = ""
        worker.fail(retryable=True)
        found = await ended(jobs, job.name)
    assert (found.state, found.lease_epoch) == (JobState.SUCCEEDED, 2)


@pytest.mark.parametrize("moment", ["training", "uploaded", "committed", "manifest", "route"])
async def test_a_trainer_lost_at_any_moment_publishes_exactly_one_version(
    jobs: JobStore,
    datasets: DatasetStore,
    object_store: ObstoreStore,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    """The first trainer stops existing at `moment`; the second one finishes the job."""
    job = await jobs.create(make_job(), "", "a" * 64)
    lost = asyncio.Event()

    async def vanish(*_: object) -> None:
        lost.set()
        await asyncio.Event().wait()

    def trainer(executor: ScriptedExecutor) -> tuple[Dispatcher, Publisher]:
        metrics = TrainerMetrics(CollectorRegistry())
        publisher = Publisher(jobs, object_store, metrics)
        dispatcher = Dispatcher(
            jobs, datasets, AdapterRegistry(object_store), executor, publisher, metrics,
            bases=make_bases(), trainer="one", workers=1, jobs_per_worker=1, max_worker_losses=3,
        )  # fmt: skip
        return dispatcher, publisher

    worker = ScriptedWorker(object_store, hold="step-3" if moment == "training" else "")
    first, publisher = trainer(ScriptedExecutor(object_store, worker))
    if moment == "uploaded":
        monkeypatch.setattr(publisher, "publish", vanish)
    elif moment == "committed":
        monkeypatch.setattr(publisher, "finish", vanish)
    elif moment == "manifest":
        monkeypatch.setattr(publisher._registry, "append_route", vanish)
    elif moment == "route":
        monkeypatch.setattr(first, "_jobs", _Vanishing(jobs, vanish))
    task = asyncio.create_task(first.run())
    await asyncio.wait_for(worker.held.wait() if moment == "training" else lost.wait(), 20)
    task.cancel()
    await asyncio.wait({task})

    second, _ = trainer(ScriptedExecutor(object_store))
    await second.recover()
    async with running(second):
        found = await ended(jobs, job.name)
    assert (found.state, found.promoted) == (JobState.SUCCEEDED, True)
    assert await published(object_store) == [f"{found.version}/manifest.json"]
    folders = await object_store.folders(f"{job.spec.adapter}/versions")
    assert folders == [found.version.rpartition("/")[2]]
    routes = [i.key async for i in object_store.objects(f"{job.spec.adapter}/routes")]
    assert len(routes) == 1


class _Vanishing:
    """A job store whose `succeed` never comes back."""

    def __init__(self, jobs: JobStore, vanish: Callable[..., object]) -> None:
        self._jobs = jobs
        self.succeed = vanish

    def __getattr__(self, name: str) -> object:
        return getattr(self._jobs, name)


async def test_a_job_store_that_hangs_does_not_hold_the_stop(
    make: Make, jobs: JobStore, object_store: ObstoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = ScriptedWorker(object_store, hold="step-2")
    executor = ScriptedExecutor(object_store, worker)
    await jobs.create(make_job(), "", "a" * 64)
    running = asyncio.create_task(make(executor).run())
    await worker.held.wait()

    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    for question in ("claim", "counts", "record", "release"):
        monkeypatch.setattr(jobs, question, hang)
    running.cancel()
    done, _ = await asyncio.wait({running}, timeout=20)
    assert done
    assert worker.closed.is_set()


async def test_a_job_store_that_fails_just_then_hides_no_lost_worker(
    make: Make, jobs: JobStore, object_store: ObstoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = ScriptedExecutor(object_store, ScriptedWorker(object_store, death="step-3"))
    released, counts = jobs.release, jobs.counts
    lost = False

    async def release(write: Write, given: GivenBack) -> None:
        nonlocal lost
        await released(write, given)
        lost = True

    async def fail_once() -> dict[JobState, int]:
        nonlocal lost
        if lost:
            lost = False
            raise DatabaseUnavailable("the job store failed")
        return await counts()

    monkeypatch.setattr(jobs, "release", release)
    monkeypatch.setattr(jobs, "counts", fail_once)
    job = await jobs.create(make_job(), "", "a" * 64)
    async with running(make(executor)):
        found = await ended(jobs, job.name)
    assert (found.state, found.lease_epoch) == (JobState.SUCCEEDED, 2)
    assert executor.started[0].closed.is_set()


async def test_a_lease_that_nobody_here_knows_of_is_given_back(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    dispatcher = make(ScriptedExecutor(object_store))
    job = await jobs.create(make_job(), "", "a" * 64)
    # Claimed in this trainer's name, and lost on the way.
    assert await jobs.claim(dispatcher._owner) is not None
    async with running(dispatcher):
        found = await ended(jobs, job.name)
    assert (found.state, found.lease_epoch) == (JobState.SUCCEEDED, 2)
