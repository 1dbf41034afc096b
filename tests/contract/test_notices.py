"""What one trainer hears of another's changes on the same database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import sqlalchemy as sa

from tailorbird.names import JobName
from tests.unit.trainer_svc.values import make_job
from trainer_svc.jobs.database import Database
from trainer_svc.jobs.feed import Feed
from trainer_svc.jobs.store import JobStore

DIGEST = "a" * 64
ONE = JobName("acme", "one")


class Listener:
    """A trainer's ears; `gaps` counts the times that something may have been missed."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[tuple[JobName, str]] = asyncio.Queue()
        self.gaps: asyncio.Queue[None] = asyncio.Queue()

    @asynccontextmanager
    async def on(self, database: Database) -> AsyncIterator[None]:
        notices = database.notices(
            lambda job, state: self.told.put_nowait((job, state)),
            lambda: self.gaps.put_nowait(None),
        )
        task = asyncio.create_task(notices.run())
        try:
            async with asyncio.timeout(30):
                await self.gaps.get()
                yield
        finally:
            task.cancel()
            await asyncio.wait({task})


@pytest.fixture
async def databases(postgresql_url: str) -> AsyncIterator[tuple[Database, Database]]:
    here, there = Database(postgresql_url), Database(postgresql_url)
    await here.migrate()
    yield here, there
    await here.close()
    await there.close()


async def test_others_hear_of_every_change_and_nobody_of_its_own(
    databases: tuple[Database, Database],
) -> None:
    here, there = databases
    listener, own = Listener(), Listener()
    async with listener.on(there), own.on(here):
        jobs = JobStore(here, Feed())
        await jobs.create(make_job("one"), "", DIGEST)
        assert await listener.told.get() == (ONE, "QUEUED")
        found = await jobs.claim("here")
        assert found is not None
        assert await listener.told.get() == (ONE, "PREPARING")
        await jobs.request_cancel(ONE)
        assert await listener.told.get() == (ONE, "PREPARING")
        await jobs.cancelled(found[0].write())
        assert await listener.told.get() == (ONE, "CANCELLED")
        await JobStore(there, Feed()).create(make_job("two"), "", DIGEST)
        assert await own.told.get() == (JobName("acme", "two"), "QUEUED")
        assert own.told.empty()
        assert listener.told.empty()


async def test_a_change_that_is_rolled_back_is_not_told(
    databases: tuple[Database, Database],
) -> None:
    here, there = databases
    listener = Listener()
    jobs = JobStore(here, Feed())
    await jobs.create(make_job("one"), "r", DIGEST)
    async with listener.on(there):
        await jobs.create(make_job("two"), "r", DIGEST)
        await jobs.create(make_job("three"), "", DIGEST)
        assert await listener.told.get() == (JobName("acme", "three"), "QUEUED")


async def test_who_lost_the_database_listens_again_and_says_that_it_missed_something(
    databases: tuple[Database, Database],
) -> None:
    here, there = databases
    listener = Listener()
    others = sa.text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )
    async with listener.on(there):
        async with here.write() as connection:
            await connection.execute(others)
        await listener.gaps.get()
        await JobStore(here, Feed()).create(make_job("one"), "", DIGEST)
        assert await listener.told.get() == (ONE, "QUEUED")


async def test_a_file_has_nobody_to_hear_of(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    async with asyncio.timeout(20):
        await database.notices(lambda *_: None, lambda: None).run()
    await database.close()
