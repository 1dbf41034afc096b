"""Jobs that are cancelled leave nothing in the object store, whoever ends them."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from tailorbird.errors import StoreUnavailable
from tailorbird.object_store import ObstoreStore
from tests.unit.trainer_svc.dispatching import Make, ended, running
from tests.unit.trainer_svc.fakes import ScriptedExecutor, ScriptedWorker
from tests.unit.trainer_svc.values import make_job
from trainer_svc.jobs.events import StateChanged
from trainer_svc.jobs.fence import Lease
from trainer_svc.jobs.model import Job, JobState
from trainer_svc.jobs.store import JobStore


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer_svc.dispatch.backoff._SECONDS", (0.001,))
    monkeypatch.setattr("trainer_svc.dispatch.losses._SECONDS", (0.001,))


async def leavings(store: ObstoreStore, job: Job) -> list[str]:
    found = [i.key async for i in store.objects(str(job.name))]
    return found + [i.key async for i in store.objects(f"{job.spec.adapter}/versions")]


async def leave(store: ObstoreStore, job: Job, version: str = "") -> None:
    """Put a checkpoint of the job, and a file of its version, into the store."""
    await store.create(f"{job.name}/checkpoints/00000002/manifest.json", b"{}")
    if version:
        await store.create(f"{job.spec.adapter}/versions/{version}/adapter_config.json", b"{}")


async def uploading(jobs: JobStore, store: ObstoreStore) -> tuple[Job, Lease]:
    """Return a job whose holder had begun to upload a version."""
    job = await jobs.create(make_job(), "", "a" * 64)
    claimed = await jobs.claim("before/1")
    assert claimed is not None
    for state in (JobState.RUNNING, JobState.EVALUATING):
        await jobs.record(claimed[0].write(), StateChanged(state=state))
    await jobs.allocate_version(claimed[0].write(), "v1")
    await leave(store, job, "v1")
    return job, claimed[0]


def cancelled(registry: CollectorRegistry) -> float | None:
    labels = {"state": "CANCELLED", "reason": ""}
    return registry.get_sample_value("tailorbird_trainer_jobs_finished_total", labels)


async def test_a_waiting_job_that_is_cancelled_leaves_nothing(
    make: Make, jobs: JobStore, object_store: ObstoreStore, registry: CollectorRegistry
) -> None:
    job, lease = await uploading(jobs, object_store)
    await jobs.request_pause(lease.job)
    await jobs.release(lease.write())
    dispatcher = make(ScriptedExecutor(object_store))
    async with running(dispatcher):
        _, left = await jobs.request_cancel(job.name)
        assert left is not None
        dispatcher.cancelled(left)
    assert await leavings(object_store, job) == []
    assert cancelled(registry) == 1


@pytest.mark.parametrize("end", ["lost worker", "failure", "suspended"])
async def test_a_job_that_turns_out_to_be_cancelled_leaves_nothing(
    make: Make,
    jobs: JobStore,
    object_store: ObstoreStore,
    registry: CollectorRegistry,
    end: str,
) -> None:
    job, lease = await uploading(jobs, object_store)
    await jobs.release(lease.write())
    worker = ScriptedWorker(object_store, hold="step-2")
    dispatcher = make(ScriptedExecutor(object_store, worker))
    async with running(dispatcher):
        await worker.held.wait()
        await ended(jobs, job.name, JobState.RUNNING)
        await jobs.request_cancel(job.name)
        if end == "lost worker":
            worker.die()
        elif end == "failure":
            worker.fail(retryable=True)
        else:
            await dispatcher.pause(job.name)
        assert (await ended(jobs, job.name)).state is JobState.CANCELLED
    assert await leavings(object_store, job) == []
    assert cancelled(registry) == 1


async def test_a_job_that_a_lost_trainer_should_have_cancelled_leaves_nothing(
    make: Make, jobs: JobStore, object_store: ObstoreStore, registry: CollectorRegistry
) -> None:
    job, _ = await uploading(jobs, object_store)
    await jobs.request_cancel(job.name)
    dispatcher = make(ScriptedExecutor(object_store))
    await dispatcher.recover()
    async with running(dispatcher):
        pass
    assert await leavings(object_store, job) == []
    assert cancelled(registry) == 1


async def test_a_job_that_succeeds_leaves_its_version_alone(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    job, lease = await uploading(jobs, object_store)
    await jobs.release(lease.write())
    async with running(make(ScriptedExecutor(object_store))):
        found = await ended(jobs, job.name)
    assert found.state is JobState.SUCCEEDED
    left = await leavings(object_store, job)
    assert left
    assert all(key.startswith(f"{found.version}/") for key in left)


async def test_an_earlier_holders_upload_goes_when_the_job_fails(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    job, lease = await uploading(jobs, object_store)
    await jobs.release(lease.write())
    worker = ScriptedWorker(object_store, hold="step-2")
    async with running(make(ScriptedExecutor(object_store, worker))):
        await worker.held.wait()
        worker.fail()
        assert (await ended(jobs, job.name)).state is JobState.FAILED
    assert await leavings(object_store, job) == []


@pytest.mark.parametrize("error", [StoreUnavailable("down"), RuntimeError("a bug")])
async def test_a_store_that_is_down_ends_no_trainer(
    make: Make,
    jobs: JobStore,
    object_store: ObstoreStore,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    job, lease = await uploading(jobs, object_store)
    await jobs.release(lease.write())
    _, left = await jobs.request_cancel(job.name)
    assert left is not None
    dispatcher = make(ScriptedExecutor(object_store))
    folders, asked = object_store.folders, asyncio.Event()

    async def down(prefix: str) -> list[str]:
        if not prefix.endswith("checkpoints"):
            return await folders(prefix)
        asked.set()
        raise error

    monkeypatch.setattr(dispatcher._publisher, "_store", _Store(object_store, down))
    async with running(dispatcher):
        dispatcher.cancelled(left)
        await asked.wait()
        other = await jobs.create(make_job("two"), "", "b" * 64)
        dispatcher.wake()
        await ended(jobs, other.name)


class _Store:
    """A store whose `folders` is the test's."""

    def __init__(self, store: ObstoreStore, folders: object) -> None:
        self._store = store
        self.folders = folders

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)
