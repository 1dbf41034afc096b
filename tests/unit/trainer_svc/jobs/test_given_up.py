"""What goes on when a caller has gone, or when an answer is lost: nobody finds it half-way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tailorbird.errors import FailedPrecondition, NotFound
from tailorbird.names import DatasetName, JobName
from tailorbird.object_store import ObstoreStore, open_store
from tests.unit.trainer_svc.values import make_bases, make_job
from trainer_svc.datasets.dataset import Dataset
from trainer_svc.datasets.store import DatasetStore
from trainer_svc.jobs.database import DatabaseUnavailable
from trainer_svc.jobs.job_data import JobData
from trainer_svc.jobs.model import Job
from trainer_svc.jobs.service import TuningService

NAME = DatasetName("acme", "chats")
RECORD = b'{"prompt": "a", "completion": "b"}\n'


class Landing:
    """What is on its way when its caller goes, and lands all the same."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()

    async def does(self, work: Callable[[], Awaitable[Any]]) -> Any:
        async def later() -> Any:
            await self.go_on.wait()
            return await work()

        self.begun.set()
        return await asyncio.shield(asyncio.ensure_future(later()))


class Slow:
    """An object store of which one call is on its way for long."""

    def __init__(self, store: ObstoreStore, method: str, landing: Landing) -> None:
        self._store = store
        self._method = method
        self._landing = landing
        self.called: list[str] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        self.called.append(name)
        if name != self._method:
            return found
        return lambda *args: self._landing.does(lambda: found(*args))


class Jobs:
    """A job store that fails, or is slow, and then has the job."""

    def __init__(self, landing: Landing | None = None) -> None:
        self.made: list[JobName] = []
        self.asked = 0
        self._landing = landing

    async def create(self, job: Job, *_: Any) -> Job:
        async def made() -> Job:
            self.made.append(job.name)
            return job

        if self._landing is None:
            await made()
            raise DatabaseUnavailable("the answer was lost")
        found: Job = await self._landing.does(made)
        return found

    async def request_resume(self, name: JobName) -> Job:
        raise DatabaseUnavailable("the answer was lost")

    async def users(self, dataset: DatasetName, limit: int) -> list[JobName]:
        self.asked += 1
        return self.made


class Queue:
    woken = 0

    def wake(self) -> None:
        self.woken += 1


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = open_store((folder / "store").as_uri())
        self.datasets = self.of(self.store)
        self.queue = Queue()

    def of(self, store: Any) -> DatasetStore:
        return DatasetStore(store, self.folder / "spool", 2**20, 2**16)

    def service(self, jobs: Jobs, datasets: DatasetStore | None = None) -> TuningService:
        given: dict[str, Any] = dict.fromkeys(("feed", "registry", "limits", "checks"))
        given |= {
            "bases": make_bases(),
            "jobs": jobs,
            "datasets": datasets or self.datasets,
            "queue": self.queue,
        }
        return TuningService(**given)

    async def upload(self, datasets: DatasetStore | None = None) -> Dataset:
        async def chunks() -> AsyncIterator[bytes]:
            yield RECORD

        return await (datasets or self.datasets).upload(NAME, None, chunks())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def ticks() -> None:
    """Let everything go as far as it goes without an answer from outside."""
    for _ in range(20):
        await asyncio.sleep(0)


def accepted(service: TuningService, dataset: Dataset) -> asyncio.Task[Any]:
    return asyncio.create_task(
        service.accept(make_job(), JobData(dataset), "", "0", validate_only=False)
    )


async def test_a_job_that_is_being_made_holds_its_dataset_also_when_its_caller_goes(
    world: World,
) -> None:
    landing = Landing()
    jobs = Jobs(landing)
    service = world.service(jobs)
    making = accepted(service, await world.upload())
    await landing.begun.wait()
    making.cancel()
    deleting = asyncio.create_task(service.delete_dataset(NAME))
    await ticks()
    landing.go_on.set()
    await asyncio.wait({making})
    assert making.cancelled()
    with pytest.raises(FailedPrecondition, match="is used by tenants/acme/jobs/one"):
        await deleting
    # It is in the queue, whoever waits for it.
    assert world.queue.woken == 1


async def test_a_job_whose_making_was_not_answered_is_begun_all_the_same(world: World) -> None:
    service = world.service(Jobs())
    with pytest.raises(DatabaseUnavailable):
        await accepted(service, await world.upload())
    with pytest.raises(DatabaseUnavailable):
        await service.resume_job(JobName("acme", "one"))
    assert world.queue.woken == 2


async def test_a_dataset_that_comes_to_be_is_not_deleted_in_part(world: World) -> None:
    landing, jobs = Landing(), Jobs()
    slow = world.of(Slow(world.store, "create", landing))
    uploading = asyncio.create_task(world.upload(slow))
    await landing.begun.wait()
    uploading.cancel()
    deleting = asyncio.create_task(world.service(jobs, slow).delete_dataset(NAME))
    await ticks()
    assert jobs.asked == 0
    landing.go_on.set()
    await asyncio.wait({uploading})
    assert uploading.cancelled()
    await deleting
    assert not [info.key async for info in world.store.objects(str(NAME))]


async def test_a_deletion_that_was_begun_ends_before_a_job_is_made(world: World) -> None:
    landing, jobs = Landing(), Jobs()
    made = await world.upload()
    store = Slow(world.store, "delete", landing)
    service = world.service(jobs, world.of(store))
    deleting = asyncio.create_task(service.delete_dataset(NAME))
    await landing.begun.wait()
    deleting.cancel()
    making = accepted(service, made)
    before = len(store.called)
    await ticks()
    assert len(store.called) == before
    landing.go_on.set()
    with pytest.raises(NotFound):
        await making
    assert deleting.cancelled()
    assert not [info.key async for info in world.store.objects(str(NAME))]
    assert jobs.made == []
