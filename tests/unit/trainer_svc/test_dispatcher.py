"""Jobs on their way through the dispatcher, and what is left when something dies on it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from tailorbird.errors import FailedPrecondition
from tailorbird.names import DatasetName, JobName
from tailorbird.object_store import ObstoreStore
from tailorbird.registry import AdapterRegistry, Route, RoutedVersion
from tests.unit.trainer_svc.fakes import ScriptedExecutor, ScriptedWorker, published
from tests.unit.trainer_svc.values import make_job
from trainer_svc.datasets import DatasetStore
from trainer_svc.dispatcher import Dispatcher
from trainer_svc.executor import WorkerLost
from trainer_svc.jobs import TERMINAL, Job, JobState, PromotionPolicy, StateChanged
from trainer_svc.metrics import TrainerMetrics
from trainer_svc.protocol import Cancel, Start, Suspend
from trainer_svc.publisher import Publisher
from trainer_svc.store import JobStore

Make = Callable[..., Dispatcher]


@pytest.fixture
async def datasets(object_store: ObstoreStore, tmp_path: Path) -> DatasetStore:
    async def chunks() -> AsyncIterator[bytes]:
        yield json.dumps({"prompt": "a", "completion": "b"}).encode()

    store = DatasetStore(object_store, tmp_path / "spool", 10_000, 10_000)
    await store.upload(DatasetName("acme", "chats"), None, chunks())
    return store


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def make(
    jobs: JobStore, datasets: DatasetStore, object_store: ObstoreStore, registry: CollectorRegistry
) -> Make:
    built: list[ScriptedExecutor] = []

    def build(executor: ScriptedExecutor, workers: int = 1) -> Dispatcher:
        # A second trainer of one test counts for itself.
        metrics = TrainerMetrics(registry if not built else CollectorRegistry())
        built.append(executor)
        return Dispatcher(
            jobs,
            datasets,
            AdapterRegistry(object_store),
            executor,
            Publisher(jobs, object_store, metrics),
            metrics,
            workers=workers,
            max_worker_losses=3,
        )

    return build


@asynccontextmanager
async def running(dispatcher: Dispatcher) -> AsyncIterator[None]:
    task = asyncio.create_task(dispatcher.run())
    try:
        yield
        await dispatcher.stop()
        await task
    finally:
        task.cancel()


async def ended(jobs: JobStore, name: JobName, *more: JobState) -> Job:
    async with asyncio.timeout(20):
        with jobs._feed.subscribe(name) as changed:
            while (job := await jobs.get(name)).state not in {*TERMINAL, *more}:
                await changed.wait()
                changed.clear()
    return job


async def states(jobs: JobStore, name: JobName) -> list[str]:
    events = await jobs.events(name, 0, 1000)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    return [e.payload.state.value for e in events if isinstance(e.payload, StateChanged)]


async def test_a_job_becomes_a_routed_version(
    make: Make, jobs: JobStore, object_store: ObstoreStore, registry: CollectorRegistry
) -> None:
    job = await jobs.create(make_job(), "", "a" * 64)
    executor = ScriptedExecutor(object_store)
    async with running(make(executor)):
        found = await ended(jobs, job.name)
    assert found.state is JobState.SUCCEEDED
    assert found.promoted
    assert await published(object_store) == [f"{found.version}/manifest.json"]
    assert await states(jobs, job.name) == [
        "QUEUED", "PREPARING", "RUNNING", "EVALUATING", "PUBLISHING", "SUCCEEDED",
    ]  # fmt: skip
    head = await AdapterRegistry(object_store).head(job.spec.adapter_name)
    assert head is not None
    assert (head.generation, head.actor) == (1, str(job.name))
    assert found.version.endswith(head.version)
    assert registry.get_sample_value("tailorbird_trainer_steps_total") == 4
    assert registry.get_sample_value("tailorbird_trainer_tokens_total") == 40
    assert executor.started[0].closed.is_set()


async def test_manual_policy_leaves_the_route(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    job = await jobs.create(make_job(policy=PromotionPolicy.MANUAL), "", "a" * 64)
    async with running(make(ScriptedExecutor(object_store))):
        found = await ended(jobs, job.name)
    assert (found.state, found.promoted) == (JobState.SUCCEEDED, False)
    assert await AdapterRegistry(object_store).head(job.spec.adapter_name) is None
    assert len(await published(object_store)) == 1


async def test_a_route_that_somebody_else_moved_is_left_alone(
    make: Make, jobs: JobStore, object_store: ObstoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await jobs.create(make_job(), "", "a" * 64)
    worker = ScriptedWorker(object_store)
    dispatcher = make(ScriptedExecutor(object_store, worker))
    registry = AdapterRegistry(object_store)
    theirs = Route(
        generation=1,
        versions=(RoutedVersion(version="20250101T000000-x-1"),),
        reason="promote",
        actor="somebody",
        create_time=job.create_time,
        nonce="theirs",
    )
    original = jobs.commit

    async def commit_then_lose(*args: object) -> None:
        await original(*args)  # type: ignore[arg-type]
        await registry.append_route(job.spec.adapter_name, theirs)

    monkeypatch.setattr(jobs, "commit", commit_then_lose)
    async with running(dispatcher):
        found = await ended(jobs, job.name)
    assert found.state is JobState.SUCCEEDED
    assert (found.promoted, found.promotion_refusal) == (False, "ROUTE_CONFLICT")
    assert await registry.head(job.spec.adapter_name) == theirs


async def test_two_workers_train_at_the_same_time(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    pair = [ScriptedWorker(object_store, hold="step-2") for _ in range(2)]
    dispatcher = make(ScriptedExecutor(object_store, *pair), workers=2)
    async with running(dispatcher):
        made = [await jobs.create(make_job(f"job-{i}"), "", f"{i}" * 64) for i in range(2)]
        dispatcher.wake()
        async with asyncio.timeout(20):
            await asyncio.gather(*(worker.held.wait() for worker in pair))
        for worker in pair:
            worker.fail()
        for job in made:
            assert (await ended(jobs, job.name)).state is JobState.FAILED


async def test_a_job_created_while_workers_are_idle_is_taken(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    dispatcher = make(ScriptedExecutor(object_store), workers=2)
    async with running(dispatcher):
        for number in range(4):
            job = await jobs.create(make_job(f"job-{number}"), "", f"{number}" * 64)
            dispatcher.wake()
            assert (await ended(jobs, job.name)).state is JobState.SUCCEEDED


async def test_a_running_job_is_cancelled(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    worker = ScriptedWorker(object_store, hold="step-2")
    dispatcher = make(ScriptedExecutor(object_store, worker))
    job = await jobs.create(make_job(), "", "a" * 64)
    async with running(dispatcher):
        await worker.held.wait()
        await jobs.request_cancel(job.name)
        await dispatcher.cancel(job.name)
        assert (await ended(jobs, job.name)).state is JobState.CANCELLED
        other = await jobs.create(make_job("two"), "", "b" * 64)
        worker.hold = ""
        dispatcher.wake()
        assert (await ended(jobs, other.name)).state is JobState.SUCCEEDED
    assert len(await published(object_store)) == 1


async def test_a_cancel_before_the_commit_leaves_no_version(
    make: Make, jobs: JobStore, object_store: ObstoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await jobs.create(make_job(), "", "a" * 64)
    original = jobs.commit

    async def cancelled_first(*args: object) -> None:
        await jobs.request_cancel(job.name)
        await original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(jobs, "commit", cancelled_first)
    async with running(make(ScriptedExecutor(object_store))):
        assert (await ended(jobs, job.name)).state is JobState.CANCELLED
    left = [i.key async for i in object_store.objects(job.spec.adapter)]
    assert left == []


async def test_a_lost_worker_is_replaced_and_the_job_goes_on(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    executor = ScriptedExecutor(object_store, ScriptedWorker(object_store, death="step-3"))
    job = await jobs.create(make_job(), "", "a" * 64)
    async with running(make(executor)):
        found = await ended(jobs, job.name)
    assert (found.state, found.lease_epoch) == (JobState.SUCCEEDED, 2)
    assert executor.started[0].closed.is_set()
    assert executor.started[1].assignment.lease_epoch == 2
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


async def test_a_stop_suspends_jobs_and_the_next_start_takes_them_up(
    make: Make, jobs: JobStore, object_store: ObstoreStore, registry: CollectorRegistry
) -> None:
    worker = ScriptedWorker(object_store, hold="step-2")
    job = await jobs.create(make_job(), "", "a" * 64)
    async with running(make(ScriptedExecutor(object_store, worker))):
        await worker.held.wait()
    assert any(isinstance(command, Suspend) for command in worker.commands)
    assert (await jobs.get(job.name)).state is JobState.QUEUED


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
            workers=1, max_worker_losses=3,
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
        monkeypatch.setattr(publisher, "_jobs", _Vanishing(jobs, vanish))
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


async def test_the_worker_gets_what_the_job_asked_for(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    job = await jobs.create(make_job(), "", "a" * 64)
    executor = ScriptedExecutor(object_store)
    async with running(make(executor)):
        first = await ended(jobs, job.name)
    assignment = executor.started[0].assignment
    assert assignment.spec_sha256 == job.spec.sha256()
    assert assignment.training.format == "prompt_completion"
    assert await object_store.get(assignment.training.key)
    assert assignment.parent_version == ""

    again = await jobs.create(make_job("two"), "", "b" * 64)
    dispatcher = make(executor)
    async with running(dispatcher):
        await ended(jobs, again.name)
    assert executor.started[1].assignment.parent_version == first.version
    assert not any(isinstance(c, Cancel) for c in executor.started[0].commands)
    assert sum(isinstance(c, Start) for c in executor.started[0].commands) == 1
