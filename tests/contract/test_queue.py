"""The order in which jobs are claimed, on either database, and what a look at the queue reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from tailorbird.errors import NotFound, ResourceExhausted
from tailorbird.names import JobName
from tests.unit.trainer_svc.values import make_job
from trainer_svc.jobs import rows
from trainer_svc.jobs.database import Database
from trainer_svc.jobs.feed import Feed
from trainer_svc.jobs.fence import GivenBack, Lease
from trainer_svc.jobs.limits import TenantLimits
from trainer_svc.jobs.model import Faults, Job, JobState
from trainer_svc.jobs.store import JobStore

DIGEST = "a" * 64
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    database = Database(request.getfixturevalue(f"{request.param}_url"))
    await database.migrate()
    yield database
    await database.close()


@pytest.fixture
def store(database: Database) -> JobStore:
    return JobStore(database, Feed())


async def queue(store: JobStore, *names: str, priority: int = 0) -> None:
    """Queue `tenant/job` for each name, each a second after the one before."""
    counted = sum((await store.counts()).values())
    for offset, name in enumerate(names, start=counted):
        tenant, job = name.split("/")
        made = make_job(job, tenant)
        spec = made.spec.model_copy(update={"priority": priority})
        created = BEGIN + timedelta(seconds=offset)
        await store.create(
            made.model_copy(update={"spec": spec, "create_time": created}), "", DIGEST
        )


async def claimed(store: JobStore, count: int = 99) -> list[str]:
    """Claim so many jobs, or all, one after the other."""
    names: list[str] = []
    while len(names) < count and (found := await store.claim("here")) is not None:
        names.append(f"{found[1].name.tenant}/{found[1].name.job}")
    return names


async def one(store: JobStore) -> Lease:
    found = await store.claim("here")
    assert found is not None
    return found[0]


async def test_the_tenant_with_the_fewest_jobs_at_work_comes_first_then_age(
    store: JobStore,
) -> None:
    await queue(store, *(f"acme/a{number}" for number in range(4)))
    await queue(store, "globex/g0", "globex/g1", "initech/i0")
    assert await claimed(store) == [
        "acme/a0", "globex/g0", "initech/i0", "acme/a1", "globex/g1", "acme/a2", "acme/a3",
    ]  # fmt: skip


async def test_a_text_that_the_database_cannot_read_stops_no_look_at_the_queue(
    store: JobStore,
) -> None:
    made = make_job("a0")
    labels = {"note": "nul \0 in it"}
    spec = made.spec.model_copy(update={"labels": labels})
    # As earlier releases stored it.
    await store.create(made.model_copy(update={"spec": spec, "create_time": BEGIN}), "", DIGEST)
    await queue(store, "globex/g0")
    found = [await store.claim("here", passed={("another", "sha256:1")}) for _ in range(2)]
    assert [str(each[1].name) for each in found if each] == [
        "tenants/acme/jobs/a0", "tenants/globex/jobs/g0",
    ]  # fmt: skip
    assert found[0] is not None
    assert found[0][1].spec.labels == labels


async def test_what_has_ended_or_was_given_back_does_not_count_as_at_work(store: JobStore) -> None:
    await queue(store, "acme/a0", "acme/a1", "globex/g0", "acme/a2")
    first, second = await one(store), await one(store)
    assert (first.job.tenant, second.job.tenant) == ("acme", "globex")
    await store.cancelled(first.write())
    assert await claimed(store, 1) == ["acme/a1"]


async def test_a_higher_priority_comes_first_whosesoever_it_is(store: JobStore) -> None:
    await queue(store, "acme/a0", "globex/g0")
    await queue(store, "acme/later", "acme/latest", priority=5)
    await queue(store, "acme/idle", priority=-1)
    assert await claimed(store) == [
        "acme/later", "acme/latest", "globex/g0", "acme/a0", "acme/idle",
    ]  # fmt: skip


async def test_a_job_that_waits_after_a_failure_is_passed_over_until_its_time(
    store: JobStore, database: Database
) -> None:
    await queue(store, "acme/a0", "acme/a1")
    lease = await one(store)
    faults = Faults(attempts=3, alone=True)
    await store.release(lease.write(), GivenBack(faults=faults, pause=3600.0))
    found = await store.get(lease.job)
    assert (found.state, found.faults) == (JobState.QUEUED, faults)
    assert await claimed(store) == ["acme/a1"]
    async with database.write() as connection:
        await connection.execute(
            sa.text("UPDATE jobs SET not_before = :now WHERE job = 'a0'").bindparams(
                sa.bindparam("now", BEGIN, sa.DateTime(timezone=True))
            )
        )
    assert await claimed(store) == ["acme/a0"]


async def test_a_resumed_job_need_not_wait(store: JobStore) -> None:
    await queue(store, "acme/a0")
    lease = await one(store)
    await store.release(lease.write(), GivenBack(pause=3600.0))
    await store.request_pause(lease.job)
    await store.request_resume(lease.job)
    assert await claimed(store) == ["acme/a0"]


async def test_a_tenant_has_no_more_jobs_at_work_than_it_may(database: Database) -> None:
    store = JobStore(database, Feed(), limits=TenantLimits(running={"acme": 2, "*": 1}))
    await queue(store, *(f"acme/a{number}" for number in range(3)), "globex/g0", "globex/g1")
    assert await claimed(store) == ["acme/a0", "globex/g0", "acme/a1"]


async def test_two_who_claim_at_once_give_a_tenant_no_more_than_it_may(database: Database) -> None:
    store = JobStore(database, Feed(), limits=TenantLimits(running={"*": 2}))
    await queue(store, *(f"acme/a{number}" for number in range(12)))
    claims = await asyncio.gather(*(store.claim(f"trainer-{number}") for number in range(6)))
    assert len([found for found in claims if found is not None]) == 2


async def test_no_more_jobs_of_a_tenant_wait_than_may(database: Database) -> None:
    store = JobStore(database, Feed(), limits=TenantLimits(queued={"acme": 2, "*": 9}))
    await queue(store, "acme/a0", "acme/a1", *(f"globex/g{number}" for number in range(9)))
    with pytest.raises(ResourceExhausted) as caught:
        await queue(store, "acme/a2")
    assert caught.value.reason == "TOO_MANY_QUEUED_JOBS"
    told = {"quota": "queued_jobs", "subject": "tenants/acme", "limit": "2"}
    assert caught.value.metadata == told
    assert caught.value.message == "acme has 2 queued jobs; at most 2 may wait"
    with pytest.raises(NotFound):
        await store.get(JobName("acme", "a2"))
    assert await claimed(store, 1) == ["acme/a0"]
    await queue(store, "acme/a2")


async def test_many_who_queue_at_once_get_no_more_than_may_wait(database: Database) -> None:
    store = JobStore(database, Feed(), limits=TenantLimits(queued={"acme": 2}))
    asked = (queue(store, f"acme/a{number}") for number in range(12))
    answers = await asyncio.gather(*asked, return_exceptions=True)
    refused = [answer for answer in answers if answer is not None]
    assert [type(answer) for answer in refused] == [ResourceExhausted] * 10
    assert len(await claimed(store)) == 2


async def test_nor_do_more_come_back_that_were_held_back_meanwhile(database: Database) -> None:
    store = JobStore(database, Feed(), limits=TenantLimits(queued={"acme": 1}))
    await queue(store, "acme/a0")
    first = JobName("acme", "a0")
    await store.request_pause(first)
    await queue(store, "acme/a1")
    with pytest.raises(ResourceExhausted) as caught:
        await store.request_resume(first)
    assert caught.value.reason == "TOO_MANY_QUEUED_JOBS"
    assert (await store.get(first)).state is JobState.PAUSED
    assert await claimed(store, 1) == ["acme/a1"]
    assert (await store.request_resume(first)).state is JobState.QUEUED
    # One that waits already, or is at work, is none more.
    await store.request_resume(first)
    await store.request_resume(JobName("acme", "a1"))


async def test_a_request_that_is_made_again_finds_its_job_however_many_wait(
    database: Database,
) -> None:
    store = JobStore(database, Feed(), limits=TenantLimits(queued={"*": 1}))
    made = await store.create(make_job("one"), "r1", DIGEST)
    again = await asyncio.gather(
        *(store.create(make_job(f"job-{number}"), "r1", DIGEST) for number in range(50))
    )
    assert again == [made] * 50


async def test_jobs_that_do_not_fit_give_way_in_the_queue_s_order(store: JobStore) -> None:
    await queue(store, "acme/a0", "acme/a1", "globex/g0", "initech/i0", "globex/g1")
    asked: list[str] = []

    def fits(job: Job) -> bool:
        asked.append(job.name.job)
        return False

    assert await store.claim("here", fits) is None
    assert asked == ["a0", "a1", "g0", "i0", "g1"]


async def test_only_a_few_of_a_tenant_s_unreadable_jobs_are_read(
    store: JobStore, database: Database
) -> None:
    await queue(store, *(f"acme/a{number:02}" for number in range(40)))
    async with database.write() as connection:
        await connection.execute(sa.text("UPDATE jobs SET spec = '{}'"))
    await queue(store, "globex/g0")
    assert await claimed(store) == ["globex/g0"]


async def test_a_job_that_is_deleted_during_a_look_is_passed_over(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await queue(store, "acme/a0", "globex/g0")
    read = rows.job_row

    async def gone(connection: object, name: JobName) -> object:
        if name.job == "a0":
            raise NotFound(name)
        return await read(connection, name)  # type: ignore[arg-type]

    monkeypatch.setattr("trainer_svc.jobs.queue.job_row", gone)
    assert await claimed(store) == ["globex/g0"]


async def test_a_look_at_the_queue_scans_no_table(database: Database) -> None:
    """Of ten thousand jobs of a hundred tenants, of which nine in ten have ended."""
    jobs = [
        {"n": number, "tenant": f"t{number % 100:03}", "job": f"j{number:05}"}
        for number in range(10_000)
    ]
    made = make_job()
    spec = made.spec.model_dump_json()
    insert = sa.text(
        "INSERT INTO jobs (tenant, job, request_sha256, spec, adapter, state, create_time,"
        " cancel_requested, pause_requested, lease_epoch, version, promoted, promotion_refusal,"
        " last_sequence, priority, lease_write, record_version)"
        f" VALUES (:tenant, :job, 'x', '{spec.replace(':', chr(92) + ':')}', 'a',"
        " CASE WHEN :n % 10 = 0 THEN 'QUEUED' ELSE 'SUCCEEDED' END,"
        " '2026-01-01 00:00:00', false, false, 0, '', false, '', 1, 0, 0, 2)"
    )
    seen: list[tuple[str, Any]] = []

    def note(_c: object, _u: object, statement: str, parameters: object, *_: object) -> None:
        seen.append((statement, parameters))

    async with database.write() as connection:
        for start in range(0, len(jobs), 1000):
            await connection.execute(insert, jobs[start : start + 1000])
        await connection.execute(sa.text("ANALYZE"))
    engine = database._engine.sync_engine
    sa.event.listen(engine, "before_cursor_execute", note)
    store = JobStore(database, Feed(), limits=TenantLimits(running={"*": 3}))
    passed = {(made.spec.base_model, "sha256:other")}
    assert await store.claim("here", passed=passed) is not None
    await store.take_over()
    await store.keep_leases("here")
    await store.claim_publications("here")
    await store.counts()
    sa.event.remove(engine, "before_cursor_execute", note)
    looks = [each for each in seen if "jobs" in each[0] and not each[0].startswith("INSERT")]
    assert len(looks) >= 7
    async with database.read() as connection:
        for statement, parameters in looks:
            explain = "EXPLAIN QUERY PLAN " if engine.dialect.name == "sqlite" else "EXPLAIN "
            plan = await connection.exec_driver_sql(explain + statement, parameters)
            steps = " | ".join(str(row[-1]) for row in plan)
            assert "Seq Scan on jobs" not in steps, (statement, steps)
            assert "SCAN jobs" not in steps.replace("SCAN jobs USING", ""), (statement, steps)
            assert "SCAN each" not in steps, (statement, steps)
