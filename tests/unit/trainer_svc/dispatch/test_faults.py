"""Every call that a lease's run makes fails once, while another tenant's job shares the worker."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry

from tailorbird.errors import StoreUnavailable, Unavailable
from tailorbird.names import DatasetName
from tailorbird.object_store import ObstoreStore
from tailorbird.registry import AdapterRegistry
from tests.unit.trainer_svc.dispatching import ended, running
from tests.unit.trainer_svc.fakes import PREPARED, ScriptedExecutor, ScriptedWorker, mark, published
from tests.unit.trainer_svc.faults import Fault, FaultyDatabase
from tests.unit.trainer_svc.values import make_bases, make_job
from trainer_svc.datasets.store import DatasetStore
from trainer_svc.dispatch.dispatcher import Dispatcher
from trainer_svc.dispatch.executor import WorkerLost
from trainer_svc.dispatch.publisher import Publisher
from trainer_svc.jobs.database import DatabaseUnavailable, ValueRefused
from trainer_svc.jobs.events import StateChanged, StepProgress
from trainer_svc.jobs.model import Job, JobState
from trainer_svc.jobs.store import JobStore
from trainer_svc.metrics import TrainerMetrics

# What is called, on what, and which of its calls of one run: the first job's are the first.
CALLS = [
    *(("jobs", call, 1) for call in ("claim", "claim_publications", "counts", "get")),
    *(("jobs", "record", number) for number in (1, 2, 6)),
    *(("jobs", call, 1) for call in ("allocate_version", "commit", "succeed")),
    ("datasets", "get", 1),
    ("registry", "head", 1),
    *(("outbox", call, 1) for call in ("head", "next_generation", "publish", "append_route")),
    *(("publisher", call, 1) for call in ("allocate", "publish")),
    *(("worker", "send", number) for number in (1, 2)),
    *(("worker", "receive", number) for number in (1, 8)),
    ("executor", "start", 1),
]
# A bug where no lease's run calls ends the trainer, as it should; the publisher insists by itself.
NO_BUG = {"claim", "claim_publications", "counts", "start"}
CASES = [
    *((*call, "down") for call in CALLS if call[0] != "publisher"),
    *((*call, "bug") for call in CALLS if call[1] not in NO_BUG),
]
DOWN: dict[str, type[Unavailable]] = {
    "jobs": DatabaseUnavailable,
    "datasets": StoreUnavailable,
    "registry": StoreUnavailable,
    "outbox": StoreUnavailable,
    "publisher": StoreUnavailable,
    "worker": WorkerLost,
    "executor": WorkerLost,
}


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer_svc.dispatch.backoff._SECONDS", (0.001,))
    monkeypatch.setattr("trainer_svc.dispatch.losses._SECONDS", (0.001,))


@pytest.fixture
async def others(datasets: DatasetStore) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield json.dumps({"prompt": "c", "completion": "d"}).encode()

    await datasets.upload(DatasetName("other", "chats"), None, chunks())


def build(
    fault: Fault,
    where: str,
    jobs: JobStore,
    datasets: DatasetStore,
    store: ObstoreStore,
    worker: ScriptedWorker,
) -> Dispatcher:
    metrics = TrainerMetrics(CollectorRegistry())

    def with_fault(name: str, target: object) -> object:
        return fault.on(target) if name == where else target

    if where == "jobs":
        seconds, database = jobs.lease_seconds, FaultyDatabase(jobs._database, fault)
        jobs = JobStore(database, jobs._feed, lease_seconds=seconds)  # type: ignore[arg-type]
    jobs_ = with_fault("jobs", jobs)
    publisher = Publisher(jobs_, store, metrics)  # type: ignore[arg-type]
    publisher._registry = with_fault("outbox", publisher._registry)  # type: ignore[assignment]
    executor = ScriptedExecutor(store, with_fault("worker", worker))  # type: ignore[arg-type]
    return Dispatcher(
        jobs_,  # type: ignore[arg-type]
        with_fault("datasets", datasets),  # type: ignore[arg-type]
        with_fault("registry", AdapterRegistry(store)),  # type: ignore[arg-type]
        with_fault("executor", executor),  # type: ignore[arg-type]
        with_fault("publisher", publisher),  # type: ignore[arg-type]
        metrics,
        bases=make_bases(),
        workers=1,
        jobs_per_worker=2,
        max_worker_losses=3,
    )


async def check_history(jobs: JobStore, job: Job, *, whole: bool) -> None:
    """Gap-free, its own, and told once where the job had one lease only."""
    events = await jobs.events(job.name, 0, 1000)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    steps = [event.payload for event in events if isinstance(event.payload, StepProgress)]
    assert {step.learning_rate for step in steps} <= {mark(str(job.name))}
    if whole:
        assert [step.step for step in steps] == [1, 2, 3, 4]
        assert [event.payload for event in events].count(PREPARED) == 1
        changes = [e.payload.state for e in events if isinstance(e.payload, StateChanged)]
        assert [change.value for change in changes] == [
            "QUEUED", "PREPARING", "RUNNING", "EVALUATING", "PUBLISHING", "SUCCEEDED",
        ]  # fmt: skip


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("where", "method", "number", "kind"), CASES)
async def test_a_call_that_fails_costs_nobody_else_anything(
    jobs: JobStore,
    datasets: DatasetStore,
    object_store: ObstoreStore,
    others: None,
    where: str,
    method: str,
    number: int,
    after: bool,
    kind: str,
) -> None:
    error = DOWN[where]("as the test wants") if kind == "down" else RuntimeError("a bug")
    fault = Fault(method, number, error, after=after)
    # The second job waits until the first has met the fault.
    worker = ScriptedWorker(object_store, hold="step-2", only="two")
    if isinstance(error, WorkerLost):
        fault.struck_too = worker.die
    dispatcher = build(fault, where, jobs, datasets, object_store, worker)
    first = await jobs.create(make_job("one"), "", "a" * 64)
    second = await jobs.create(make_job("two", tenant="other"), "", "b" * 64)
    async with running(dispatcher):
        one = await ended(jobs, first.name)
        worker.go_on()
        two = await ended(jobs, second.name)
    assert fault.struck
    assert two.state is JobState.SUCCEEDED
    await check_history(jobs, two, whole=two.lease_epoch == 1)
    await check_history(jobs, one, whole=one.lease_epoch == 1 and kind == "down")
    if kind == "down":
        assert one.state is JobState.SUCCEEDED
    elif one.state is JobState.FAILED:
        assert one.error is not None
        assert one.error.reason in {"INTERNAL", "WORKER_LOST"}
    versions = [key.removesuffix("/manifest.json") for key in await published(object_store)]
    assert {job.version for job in (one, two) if job.version} == set(versions)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("end", "method", "state"),
    [
        ("fail", "fail", JobState.FAILED),
        ("cancel", "cancelled", JobState.CANCELLED),
        ("pause", "release", JobState.PAUSED),
        ("die", "release", JobState.SUCCEEDED),
    ],
)
async def test_an_end_is_written_once(
    jobs: JobStore,
    datasets: DatasetStore,
    object_store: ObstoreStore,
    others: None,
    end: str,
    method: str,
    state: JobState,
    after: bool,
) -> None:
    fault = Fault(method, 1, DatabaseUnavailable("as the test wants"), after=after)
    worker = ScriptedWorker(object_store, hold="step-2")
    dispatcher = build(fault, "jobs", jobs, datasets, object_store, worker)
    first = await jobs.create(make_job("one"), "", "a" * 64)
    async with running(dispatcher):
        await worker.held.wait()
        if end == "fail":
            worker.fail()
        elif end == "cancel":
            await jobs.request_cancel(first.name)
            await dispatcher.cancel(first.name)
        elif end == "pause":
            await jobs.request_pause(first.name)
            await dispatcher.pause(first.name)
        else:
            worker.die()
        one = await ended(jobs, first.name, JobState.PAUSED)
        second = await jobs.create(make_job("two", tenant="other"), "", "b" * 64)
        dispatcher.wake()
        worker.go_on()
        two = await ended(jobs, second.name)
    assert fault.struck
    assert (one.state, two.state) == (state, JobState.SUCCEEDED)
    for job in (one, two):
        await check_history(jobs, job, whole=False)
    states = [e.payload for e in await jobs.events(first.name, 0, 100)]
    changes = [e.state for e in states if isinstance(e, StateChanged)]
    assert changes.count(state) == 1


@pytest.mark.parametrize("error", [DatabaseUnavailable, ValueRefused])
async def test_a_claim_whose_answer_was_lost_is_given_back(
    jobs: JobStore,
    datasets: DatasetStore,
    object_store: ObstoreStore,
    error: type[DatabaseUnavailable | ValueRefused],
) -> None:
    # With the next beat it would be found as well: in a quarter of an hour.
    jobs.lease_seconds = 3600.0
    fault = Fault("claim", 1, error("as the test wants"), after=True)
    worker = ScriptedWorker(object_store)
    dispatcher = build(fault, "jobs", jobs, datasets, object_store, worker)
    job = await jobs.create(make_job(), "", "a" * 64)
    async with running(dispatcher):
        found = await ended(jobs, job.name)
    assert (found.state, found.lease_epoch) == (JobState.SUCCEEDED, 2)


async def test_a_lease_that_is_given_up_is_cancelled_in_the_worker(
    jobs: JobStore, datasets: DatasetStore, object_store: ObstoreStore
) -> None:
    fault = Fault("record", 3, RuntimeError("a bug"), after=False)
    worker = ScriptedWorker(object_store)
    dispatcher = build(fault, "jobs", jobs, datasets, object_store, worker)
    job = await jobs.create(make_job(), "", "a" * 64)
    async with running(dispatcher):
        assert (await ended(jobs, job.name)).state is JobState.FAILED
    assert worker.told(type(worker.commands[-1])) == ["one"]  # type: ignore[arg-type]
    assert not worker.jobs[1:]


async def test_a_lease_that_another_holder_took_is_cancelled_in_the_worker(
    jobs: JobStore, datasets: DatasetStore, object_store: ObstoreStore
) -> None:
    fault = Fault("none", 1, RuntimeError(), after=False)
    worker = ScriptedWorker(object_store, hold="step-2", only="one")
    dispatcher = build(fault, "jobs", jobs, datasets, object_store, worker)
    job = await jobs.create(make_job(), "", "a" * 64)
    async with running(dispatcher):
        await worker.held.wait()
        await ended(jobs, job.name, JobState.RUNNING)
        await jobs.take_back("")
        assert await jobs.claim("another trainer") is not None
        before = await jobs.events(job.name, 0, 100)
        worker.go_on()
        two = await jobs.create(make_job("two"), "", "b" * 64)
        dispatcher.wake()
        assert (await ended(jobs, two.name)).state is JobState.SUCCEEDED
    assert await jobs.events(job.name, 0, 100) == before
    assert [c.lease.epoch for c in worker.commands if c.kind == "cancel"] == [1]
