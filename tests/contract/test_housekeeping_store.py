"""What housekeeping asks of any database behind the job store: SQLite and a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from tailorbird.errors import FailedPrecondition, NotFound
from tailorbird.names import JobName, TenantName
from tests.unit.trainer_svc.values import make_job, make_sweep
from trainer_svc.jobs.database import Database
from trainer_svc.jobs.events import StateChanged
from trainer_svc.jobs.feed import Feed
from trainer_svc.jobs.fence import Lease
from trainer_svc.jobs.housekeeping import (
    Standing,
    count_rows,
    delete_job,
    ended_jobs,
    open_jobs,
    standings,
    store_time,
    tenants_of,
)
from trainer_svc.jobs.model import JobError, JobState
from trainer_svc.jobs.store import JobStore
from trainer_svc.jobs.tables import jobs

ACME = TenantName("acme")


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    url: str = request.getfixturevalue(f"{request.param}_url")
    database = Database(url)
    await database.migrate()
    yield database
    await database.close()


@pytest.fixture
def store(database: Database) -> JobStore:
    return JobStore(database, Feed())


async def made(store: JobStore, job: str, tenant: str = "acme") -> JobName:
    return (await store.create(make_job(job, tenant), "", "a" * 64)).name


async def failed(store: JobStore, job: str, tenant: str = "acme") -> JobName:
    name = await made(store, job, tenant)
    claimed = await store.claim("here", lambda job: job.name == name)
    assert claimed is not None
    await store.fail(claimed[0].write(), JobError(reason="X", message="x"))
    return name


async def uploading(store: JobStore, job: str) -> Lease:
    name = await made(store, job)
    claimed = await store.claim("here", lambda job: job.name == name)
    assert claimed is not None
    for state in (JobState.RUNNING, JobState.EVALUATING):
        await store.record(claimed[0].write(), StateChanged(state=state))
    await store.allocate_version(claimed[0].write(), "20260101T000000-x-1")
    return claimed[0]


async def test_time_is_the_databases_in_utc(database: Database) -> None:
    found = await store_time(database)
    assert found.utcoffset() == timedelta(0)
    # The database is on this machine.
    assert abs(found - datetime.now(UTC)) < timedelta(minutes=10)


async def test_a_job_stands_as_its_state_says(database: Database, store: JobStore) -> None:
    await made(store, "queued")
    await failed(store, "failed")
    await made(store, "theirs", "globex")
    lease = await uploading(store, "working")
    names = ["queued", "failed", "theirs", "working", "ghost"]
    found = await standings(database, ACME, names)
    assert found == {
        "queued": Standing(ended=False, version=""),
        "failed": Standing(ended=True, version=""),
        "working": Standing(ended=False, version="20260101T000000-x-1"),
    }
    await store.fail(lease.write(), JobError(reason="X", message="x"))
    found = await standings(database, ACME, ["working"])
    assert found["working"] == Standing(ended=True, version="")


async def test_a_published_version_is_its_jobs(database: Database, store: JobStore) -> None:
    await failed(store, "one")
    values = {"state": "SUCCEEDED", "version": "tenants/acme/adapters/voice/versions/v1"}
    async with database.write() as connection:
        await connection.execute(sa.update(jobs).values(values))
    found = await standings(database, ACME, ["one"])
    assert found["one"] == Standing(ended=True, version="v1")


async def test_a_state_of_a_later_release_has_not_ended(
    database: Database, store: JobStore
) -> None:
    name = await made(store, "one")
    async with database.write() as connection:
        await connection.execute(sa.update(jobs).values(state="HELD"))
    assert not (await standings(database, ACME, ["one"]))["one"].ended
    assert await open_jobs(database, ACME) == [name]
    assert await ended_jobs(database, ACME, None, 9) == []
    with pytest.raises(FailedPrecondition):
        await delete_job(database, name)


async def test_many_jobs_are_asked_for_at_once(database: Database, store: JobStore) -> None:
    await made(store, "one")
    names = [*(f"ghost-{number}" for number in range(1200)), "one"]
    assert [*await standings(database, ACME, names)] == ["one"]


async def test_open_jobs_are_those_that_have_not_ended(database: Database, store: JobStore) -> None:
    await failed(store, "failed")
    sweep = (await store.create(make_sweep(), "", "a" * 64)).name
    paused = await made(store, "paused")
    await store.request_pause(paused)
    await made(store, "theirs", "globex")
    assert await open_jobs(database, ACME) == [paused, sweep]
    assert await tenants_of(database) == ["acme", "globex"]


async def test_ended_jobs_come_in_pages_by_when_they_ended(
    database: Database, store: JobStore
) -> None:
    names = [await failed(store, job) for job in "abcd"]
    await made(store, "open")
    await failed(store, "theirs", "globex")
    now = datetime.now(UTC)
    async with database.write() as connection:
        long_ago = sa.update(jobs).where(jobs.c.job.in_(["a", "b", "d"]))
        await connection.execute(long_ago.values(end_time=now - timedelta(days=2)))
    before = now - timedelta(days=1)
    assert await ended_jobs(database, ACME, before, 2) == names[:2]
    assert await ended_jobs(database, ACME, before, 2, "b") == names[3:]
    assert await ended_jobs(database, ACME, None, 9) == names


async def test_a_deleted_job_is_gone_with_its_events_and_no_other(
    database: Database, store: JobStore
) -> None:
    name, other = await failed(store, "one"), await failed(store, "two")
    theirs = await failed(store, "one", "globex")
    rows = 1 + len(await store.events(name, 0, 100))
    assert await count_rows(database, name) == rows
    assert await delete_job(database, name) == rows
    with pytest.raises(NotFound):
        await store.get(name)
    assert await store.events(name, 0, 100) == []
    for kept in (other, theirs):
        assert (await store.get(kept)).state is JobState.FAILED
        assert await store.events(kept, 0, 100)
    with pytest.raises(NotFound):
        await delete_job(database, name)


async def test_a_job_that_has_not_ended_is_not_deleted(database: Database, store: JobStore) -> None:
    name = await made(store, "one")
    with pytest.raises(FailedPrecondition) as raised:
        await delete_job(database, name)
    assert raised.value.reason == "JOB_NOT_DELETABLE"
    assert raised.value.metadata == {"state": "QUEUED"}
    assert "cancel it first" in raised.value.message
    assert (await store.get(name)).state is JobState.QUEUED


async def test_a_request_may_be_made_again_once_its_job_is_deleted(
    database: Database, store: JobStore
) -> None:
    first = await store.create(make_job("one"), "request", "a" * 64)
    await store.request_cancel(first.name)
    await delete_job(database, first.name)
    assert await store.find_request("acme", "request", "a" * 64) is None
    again = await store.create(make_job("one"), "request", "b" * 64)
    assert again.state is JobState.QUEUED
