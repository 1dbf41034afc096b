"""What a job that waits keeps, and when it is taken up again, on either database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa

from tests.unit.trainer_svc.values import make_job, make_manifest
from trainer_svc.jobs.database import Database
from trainer_svc.jobs.events import JobWarning, StateChanged
from trainer_svc.jobs.feed import Feed
from trainer_svc.jobs.fence import GivenBack, Lease
from trainer_svc.jobs.model import Faults, JobState
from trainer_svc.jobs.publication import Publication
from trainer_svc.jobs.store import JobStore
from trainer_svc.jobs.tables import jobs

PUBLICATION = Publication.of(
    make_manifest("tenants/acme/adapters/voice/versions/20260101T000000-one-1")
)
WARNING = JobWarning(reason="VERSION_NOT_PUBLISHED", message="the store is full")
LATER = {"of_a_later_release": 7}


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    database = Database(request.getfixturevalue(f"{request.param}_url"))
    await database.migrate()
    yield database
    await database.close()


@pytest.fixture
async def store(database: Database) -> JobStore:
    store = JobStore(database, Feed())
    await store.create(make_job(), "", "a" * 64)
    return store


async def leased(store: JobStore) -> Lease:
    found = await store.claim("here")
    assert found is not None
    return found[0]


async def committed(store: JobStore) -> Lease:
    lease = await leased(store)
    for state in (JobState.RUNNING, JobState.EVALUATING):
        await store.record(lease.write(), StateChanged(state=state))
    await store.allocate_version(lease.write(), "v1")
    await store.commit(lease.write(), PUBLICATION)
    return lease


async def faults(database: Database) -> dict[str, Any]:
    async with database.read() as connection:
        return dict((await connection.execute(sa.select(jobs.c.faults))).scalar_one())


async def write_faults(database: Database, found: dict[str, Any]) -> None:
    async with database.write() as connection:
        await connection.execute(sa.update(jobs).values(faults=found))


async def test_what_a_later_release_counted_is_kept_when_a_job_is_given_back(
    store: JobStore, database: Database
) -> None:
    lease = await leased(store)
    await write_faults(database, LATER)
    await store.release(lease.write(), GivenBack(faults=Faults(attempts=2)))
    assert await faults(database) == LATER | Faults(attempts=2).model_dump()


async def test_what_a_later_release_counted_is_kept_when_a_version_is_put_off(
    store: JobStore, database: Database
) -> None:
    lease = await committed(store)
    await write_faults(database, LATER | {"attempts": 2})
    await store.put_off(lease.write(), lambda _: 0.0, WARNING)
    assert await faults(database) == LATER | {"attempts": 2, "publications": 1}


async def test_a_version_that_is_put_off_is_claimed_when_its_time_has_come(
    store: JobStore,
) -> None:
    lease, times = await committed(store), []

    def pause(count: int) -> float:
        times.append(count)
        return 0.0 if count == 1 else 3600.0

    await store.put_off(lease.write(), pause, WARNING)
    ((lease, found),) = await store.claim_publications("here")
    assert found == PUBLICATION
    assert await store.claim_publications("there") == []  # somebody has it
    await store.put_off(lease.write(), pause, WARNING)
    assert await store.claim_publications("here") == []
    assert times == [1, 2]
    told = [event.payload for event in await store.events(lease.job, 0, 100)]
    assert told.count(WARNING) == 1
