"""A job store and an object store with things in them, some of them written long ago."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from tailorbird.names import AdapterName, DatasetName, JobName
from tailorbird.object_store import ObstoreStore, open_store
from tailorbird.registry import AdapterRegistry
from tailorbird.routes import Route, RoutedVersion
from tests.unit.trainer_svc.values import make_job, make_manifest, put_version
from trainer_svc.datasets.store import DatasetStore
from trainer_svc.housekeeping.collector import Stores
from trainer_svc.housekeeping.model import Rules
from trainer_svc.jobs.database import Database
from trainer_svc.jobs.events import StateChanged
from trainer_svc.jobs.feed import Feed
from trainer_svc.jobs.fence import Lease
from trainer_svc.jobs.model import JobError, JobState
from trainer_svc.jobs.publication import Outcome, Publication
from trainer_svc.jobs.store import JobStore
from trainer_svc.jobs.tables import jobs

RULES = Rules(grace=timedelta(days=1), deleted_versions=timedelta(days=7))
ADAPTER = AdapterName("acme", "voice")


def version_of(job: str, epoch: int = 1, adapter: AdapterName = ADAPTER) -> str:
    return f"{adapter}/versions/20260101T000000-{job}-{epoch}"


class World:
    """Everything that housekeeping looks at, under one folder."""

    def __init__(self, folder: Path, database: Database, store: ObstoreStore | None = None) -> None:
        self.folder = folder / "store"
        self.objects = store or open_store(self.folder.as_uri())
        self.database = database
        self.jobs = JobStore(database, Feed())
        self.registry = AdapterRegistry(self.objects)
        self.datasets = DatasetStore(self.objects, folder / "spool", 2**20, 2**16)
        self.caches = folder / "caches"

    @property
    def stores(self) -> Stores:
        return Stores(self.database, self.objects, self.datasets.turn, self.caches, self.folder)

    async def put(self, key: str, data: bytes = b"some bytes", *, days: float = 30) -> str:
        """Put an object that was written so long ago."""
        await self.objects.put(key, data)
        self.age(key, days)
        return key

    def age(self, key: str, days: float) -> None:
        """Let everything under a key have been written so long ago."""
        then = time.time() - days * 86400
        path = self.folder / key
        for file in [path, *path.rglob("*")]:
            os.utime(file, (then, then))

    async def checkpoint(self, folder: str, *, best: bool = False, days: float = 30) -> str:
        await self.put(f"{folder}/adapter-00.safetensors", days=days)
        await self.put(f"{folder}/manifest.json", b'{"best": %s}' % str(best).lower().encode())
        self.age(folder, days)
        return folder

    async def keys(self, prefix: str = "tenants") -> list[str]:
        return sorted([info.key async for info in self.objects.objects(prefix)])

    async def job(self, job: str = "one", tenant: str = "acme") -> JobName:
        """A queued job."""
        return (await self.jobs.create(make_job(job, tenant), "", "a" * 64)).name

    async def leased(self, job: str = "one", tenant: str = "acme") -> Lease:
        """A job in work; any other must have been claimed before."""
        name = await self.job(job, tenant)
        claimed = await self.jobs.claim("worker")
        assert claimed is not None
        assert claimed[0].job == name
        return claimed[0]

    async def failed(self, job: str = "one", tenant: str = "acme") -> JobName:
        lease = await self.leased(job, tenant)
        await self.jobs.fail(lease.write(), JobError(reason="X", message="x"))
        return lease.job

    async def uploading(self, job: str = "one") -> tuple[Lease, str]:
        """A job whose worker uploads a version; its files are old."""
        lease = await self.leased(job)
        for state in (JobState.RUNNING, JobState.EVALUATING):
            await self.jobs.record(lease.write(), StateChanged(state=state))
        version = version_of(job)
        await self.jobs.allocate_version(lease.write(), version.rpartition("/")[2])
        await self.put(f"{version}/adapter_model.safetensors")
        return lease, version

    async def publish(self, lease: Lease, version: str) -> None:
        publication = Publication(manifest=make_manifest(version), route=None)
        await self.jobs.commit(lease.write(), publication)
        await self.jobs.succeed(lease.write(), publication, Outcome(promoted=False))

    async def published(self, job: str = "one", adapter: AdapterName = ADAPTER) -> str:
        """A version that nobody has a job for."""
        version = version_of(job, adapter=adapter)
        await put_version(self.objects, version)
        await self.put(f"{version}/README.md")
        self.age(version, 30)
        return version

    async def route(self, version: str, generation: int = 1) -> None:
        adapter = AdapterName.parse(version.partition("/versions/")[0])
        await self.registry.append_route(
            adapter,
            Route(
                generation=generation,
                versions=(RoutedVersion(version=version.rpartition("/")[2]),),
                reason="publish",
                actor="test",
                create_time=(make_manifest(version)).create_time,
                nonce=str(generation),
            ),
        )

    async def dataset(self, dataset: str = "chats", tenant: str = "acme") -> DatasetName:
        async def chunks() -> AsyncIterator[bytes]:
            yield b'{"prompt": "a", "completion": "b"}\n'

        name = DatasetName(tenant, dataset)
        await self.datasets.upload(name, None, chunks())
        return name

    async def ended(self, name: JobName, days: float) -> None:
        """Let a job have ended so long ago."""
        then = datetime.now(UTC) - timedelta(days=days)
        where = (jobs.c.tenant == name.tenant) & (jobs.c.job == name.job)
        async with self.database.write() as connection:
            await connection.execute(sa.update(jobs).where(where).values(end_time=then))
