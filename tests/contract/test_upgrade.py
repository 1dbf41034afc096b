"""A database of any earlier release, upgraded with its data: every job goes on, or stays ended."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from tailorbird.manifest import MANIFEST
from tailorbird.names import JobName, TenantName
from tailorbird.object_store import ObstoreStore
from tailorbird.registry import AdapterRegistry
from tests.unit.trainer_svc.dispatching import states
from trainer_svc.jobs import migrations
from trainer_svc.jobs.database import Database
from trainer_svc.jobs.events import Unknown
from trainer_svc.jobs.feed import Feed
from trainer_svc.jobs.model import JobState
from trainer_svc.jobs.publication import publish
from trainer_svc.jobs.store import JobStore
from trainer_svc.jobs.tables import events, jobs

GOLDEN = Path(__file__).parent / "golden"
REVISIONS = ["0001", "0002", "0003"]
WANTED = {
    "succeeded": JobState.SUCCEEDED,
    "failed": JobState.FAILED,
    "cancelled": JobState.CANCELLED,
    "running": JobState.RUNNING,
    "committed": JobState.PUBLISHING,
    "queued": JobState.QUEUED,
    "paused": JobState.PAUSED,
    "sweep": JobState.RUNNING,
}


def to_revision(connection: sa.Connection, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def rows_of(revision: str, table: sa.Table) -> list[dict[str, Any]]:
    """Return what the golden database of a revision has in a table, as Python values."""
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        stored: Any = connection.connection.driver_connection
        stored.executescript((GOLDEN / f"{revision}.sql").read_text())
        names = [column["name"] for column in sa.inspect(connection).get_columns(table.name)]
        rows = connection.execute(sa.select(*(table.c[name] for name in names)))
        found = [{name: _zoned(value) for name, value in row._mapping.items()} for row in rows]
    engine.dispose()
    return found


def _zoned(value: Any) -> Any:
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) else value


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    database = Database(request.getfixturevalue(f"{request.param}_url"))
    yield database
    await database.close()


async def upgraded(database: Database, revision: str) -> JobStore:
    async with database.write() as connection:
        await connection.run_sync(to_revision, revision)
        for table in (jobs, events):
            rows = rows_of(revision, table)
            old = sa.table(table.name, *(sa.column(name, table.c[name].type) for name in rows[0]))
            await connection.execute(sa.insert(old), rows)
    await database.migrate()
    return JobStore(database, Feed())


def test_every_revision_but_the_newest_has_a_golden_database() -> None:
    versions = Path(migrations.__file__).parent / "versions"
    known = sorted(path.name[:4] for path in versions.glob("0*.py"))
    assert known[:-1] == REVISIONS
    assert sorted(path.stem for path in GOLDEN.glob("*.sql")) == REVISIONS


@pytest.mark.parametrize("revision", REVISIONS)
async def test_every_job_is_read_with_its_whole_history(database: Database, revision: str) -> None:
    store = await upgraded(database, revision)
    found = await store.page(TenantName("acme"), limit=99)
    wanted = {name: WANTED[name] for name in WANTED if name in {job.name.job for job in found}}
    assert {job.name.job: job.state for job in found} == wanted
    assert len(wanted) == {"0001": 6, "0002": 7, "0003": 8}[revision]
    for job in found:
        history = await store.events(job.name, 0, 999)
        assert [event.sequence for event in history] == list(range(1, len(history) + 1))
        assert not any(isinstance(event.payload, Unknown) for event in history)
        assert (await store.find_request("acme", f"request-{job.name.job}", "a" * 64)) == job


@pytest.mark.parametrize("revision", REVISIONS)
async def test_jobs_whose_trainer_knew_no_end_of_a_lease_go_on(
    database: Database, revision: str
) -> None:
    store = await upgraded(database, revision)
    assert await store.take_over() == []
    claimed = []
    while (found := await store.claim("new")) is not None:
        lease, job = found
        claimed.append(job.name.job)
        assert lease.epoch == (1 if job.name.job == "queued" else 2)
        # Whatever an earlier release has not told of it is as it is for a new job.
        assert (job.faults.attempts, job.spec.priority) == (0, 0)
    assert set(claimed) == {"running", "queued"} | ({"sweep"} if revision >= "0003" else set())
    running = await states(store, JobName("acme", "running"))
    assert running == ["QUEUED", "PREPARING", "RUNNING", "QUEUED", "PREPARING"]


@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.parametrize("half", [False, True], ids=["unwritten", "half-written"])
async def test_a_version_committed_before_is_published(
    database: Database, object_store: ObstoreStore, revision: str, half: bool
) -> None:
    store = await upgraded(database, revision)
    await store.take_over()
    ((lease, publication),) = await store.claim_publications("new")
    assert (lease.job.job, lease.epoch) == ("committed", 2)
    registry = AdapterRegistry(object_store)
    if half:
        # The earlier release's bytes are not ours.
        data = publication.manifest.model_dump_json().encode()
        assert data != publication.manifest.to_json()
        await object_store.create(f"{publication.version_name}/{MANIFEST}", data)
    outcome = await publish(registry, publication)
    await store.succeed(lease.write(), publication, outcome)
    found = await store.get(lease.job)
    assert (found.state, found.promoted) == (JobState.SUCCEEDED, True)
    assert (await registry.manifest(publication.version_name)).version == found.version
    head = await registry.head(publication.adapter_name)
    assert head is not None
    assert head.version == publication.version_name.version


async def test_a_database_of_a_later_release_is_left_as_it_is(database: Database) -> None:
    await database.migrate()
    async with database.write() as connection:
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        await connection.execute(sa.text("ALTER TABLE jobs ADD COLUMN later INTEGER"))
    await database.migrate()
    async with database.read() as connection:
        found = await connection.execute(sa.text("SELECT version_num FROM alembic_version"))
        assert found.scalar_one() == "9999"
    assert await JobStore(database, Feed()).claim("here") is None
