"""Several trainers on one database: each with connections, workers and a dispatcher of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry

from tailorbird.names import DatasetName, JobName
from tailorbird.object_store import ObstoreStore
from tailorbird.registry import AdapterRegistry
from tests.unit.trainer_svc.fakes import ScriptedExecutor, ScriptedWorker
from tests.unit.trainer_svc.values import make_bases, make_job
from trainer_svc.datasets.store import DatasetStore
from trainer_svc.dispatch.dispatcher import Dispatcher
from trainer_svc.dispatch.publisher import Publisher
from trainer_svc.jobs.database import Database
from trainer_svc.jobs.feed import Feed
from trainer_svc.jobs.model import TERMINAL, Job, JobState
from trainer_svc.jobs.store import JobStore
from trainer_svc.metrics import TrainerMetrics

LONG, SHORT = 30.0, 2.0
"""Seconds that leases last: where none ends, and where one does."""
DIGEST = "a" * 64


class Trainer:
    """One trainer's process, as far as its job store and its workers are concerned."""

    def __init__(
        self,
        world: Trainers,
        *workers: ScriptedWorker,
        jobs_per_worker: int,
        lease: float,
        database: Database | None,
    ) -> None:
        self.database = database or Database(world.url)
        self.feed = Feed()
        self.jobs = JobStore(self.database, self.feed, lease_seconds=lease)
        self.executor = ScriptedExecutor(world.store, *workers)
        metrics = TrainerMetrics(CollectorRegistry())
        self.dispatcher = Dispatcher(
            self.jobs,
            world.datasets,
            AdapterRegistry(world.store),
            self.executor,
            Publisher(self.jobs, world.store, metrics),
            metrics,
            bases=make_bases(),
            workers=1,
            jobs_per_worker=jobs_per_worker,
            max_worker_losses=3,
        )
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks.append(asyncio.create_task(self.dispatcher.run()))
        notices = self.database.notices(
            lambda job, state: self._heard(job, JobState(state)), self.dispatcher.wake
        )
        self._tasks.append(asyncio.create_task(notices.run()))

    def _heard(self, job: JobName, state: JobState) -> None:
        self.feed.publish(job)
        self.dispatcher.heard(job, state)

    async def vanish(self) -> None:
        """As `kill -9` does, as far as others can tell: nothing is given back."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    async def close(self) -> None:
        if not self._tasks[0].done():
            await self.dispatcher.stop()
            await self._tasks[0]
        await self.vanish()
        await self.database.close()


class Trainers:
    """A database and an object store that trainers share."""

    def __init__(self, url: str, store: ObstoreStore, datasets: DatasetStore) -> None:
        self.url = url
        self.store = store
        self.datasets = datasets
        self.stack = AsyncExitStack()

    def start(
        self,
        *workers: ScriptedWorker,
        jobs_per_worker: int = 1,
        lease: float = LONG,
        database: Database | None = None,
    ) -> Trainer:
        trainer = Trainer(
            self, *workers, jobs_per_worker=jobs_per_worker, lease=lease, database=database
        )
        trainer.start()
        self.stack.push_async_callback(trainer.close)
        return trainer

    def reader(self) -> JobStore:
        """Return a job store of nobody's, to look at what there is."""
        database = Database(self.url)
        self.stack.push_async_callback(database.close)
        return JobStore(database, Feed())

    def worker(self, hold: str = "", only: str = "") -> ScriptedWorker:
        return ScriptedWorker(self.store, hold=hold, only=only)


@asynccontextmanager
async def trainers(url: str, store: ObstoreStore, folder: Path) -> AsyncIterator[Trainers]:
    database = Database(url)
    await database.migrate()
    await database.close()

    async def chunks() -> AsyncIterator[bytes]:
        yield json.dumps({"prompt": "a", "completion": "b"}).encode()

    datasets = DatasetStore(store, folder / "spool", 10_000, 10_000)
    for tenant in ("acme", "globex", "initech"):
        await datasets.upload(DatasetName(tenant, "chats"), None, chunks())
    world = Trainers(url, store, datasets)
    async with world.stack:
        yield world


async def queue(jobs: JobStore, *ids: str, tenant: str = "acme") -> list[Job]:
    return [await jobs.create(make_job(id_, tenant), "", DIGEST) for id_ in ids]


async def in_state(jobs: JobStore, name: JobName, *wanted: JobState, epoch: int = 0) -> Job:
    """Wait until a job is in one of these states, or has ended, under at least this epoch."""
    async with asyncio.timeout(30):
        while True:
            found = await jobs.get(name)
            if found.state in {*wanted, *TERMINAL} and found.lease_epoch >= epoch:
                return found
            # Another process may change it, whom no event of this one tells of.
            await asyncio.sleep(0.02)
