"""What any database behind the job store must do; here SQLite and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from tailorbird.errors import AlreadyExists, FailedPrecondition, LeaseLost, NotFound
from tailorbird.names import JobName, TenantName
from tests.unit.trainer_svc.golden import sample
from tests.unit.trainer_svc.values import make_job, make_manifest
from trainer_svc.jobs import listing, migrations
from trainer_svc.jobs.database import Database, DatabaseUnavailable, ValueRefused
from trainer_svc.jobs.events import Evaluation, JobWarning, StateChanged, StepProgress, Unknown
from trainer_svc.jobs.feed import Feed
from trainer_svc.jobs.fence import CancelRequested, GivenBack, Lease, Write
from trainer_svc.jobs.model import Hyperparameters, Job, JobError, JobState, Left, Progress
from trainer_svc.jobs.publication import Outcome, Publication
from trainer_svc.jobs.store import JobStore
from trainer_svc.jobs.tables import events, jobs

DIGEST = "a" * 64
OWNER = "here"
VERSION = "tenants/acme/adapters/voice/versions/20260101T000000-one-1"


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[JobStore]:
    url: str = request.getfixturevalue(f"{request.param}_url")
    database = Database(url)
    await database.migrate()
    await database.migrate()  # a second start finds nothing to do
    yield JobStore(database, Feed())
    await database.close()


def step(number: int) -> StepProgress:
    return StepProgress(
        step=number,
        total_steps=10,
        epoch=0.1,
        loss=2.5,
        learning_rate=1e-3,
        gradient_norm=1.0,
        tokens=100 * number,
        tokens_per_second=50.0,
        eta_seconds=1.0,
    )


async def claimed(store: JobStore) -> Lease:
    found = await store.claim("here")
    assert found is not None
    return found[0]


async def states(store: JobStore, name: JobName) -> list[JobState]:
    found = await store.events(name, 0, 100)
    assert [event.sequence for event in found] == list(range(1, len(found) + 1))
    return [e.payload.state for e in found if isinstance(e.payload, StateChanged)]


async def test_a_job_is_found_as_it_was_made(store: JobStore) -> None:
    job = make_job()
    assert await store.create(job, "", DIGEST) == job
    assert await store.get(job.name) == job
    assert await states(store, job.name) == [JobState.QUEUED]


async def test_a_value_that_the_database_does_not_take_is_no_fault_of_the_database(
    postgresql_url: str,
) -> None:
    database = Database(postgresql_url)
    await database.migrate()
    store = JobStore(database, Feed())
    job = await store.create(make_job(), "", DIGEST)
    lease = await claimed(store)
    no_number = step(1).model_copy(update={"loss": float("nan")})
    with pytest.raises(ValueRefused, match="22P02"):
        await store.record(lease.write(), no_number)
    with pytest.raises(ValueRefused):
        await store.find_request("acme", "nul \0", DIGEST)
    await store.record(lease.write(), step(2))
    assert await states(store, job.name) == [JobState.QUEUED, JobState.PREPARING]
    await database.close()


async def test_unknown_jobs_are_not_found(store: JobStore) -> None:
    with pytest.raises(NotFound):
        await store.get(JobName("acme", "none"))
    with pytest.raises(NotFound):
        await store.last_sequence(JobName("acme", "none"))


async def test_the_newest_events_of_many_jobs_are_found_together(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "_MOST_NAMES", 2)
    made = [await store.create(make_job(job), "", DIGEST) for job in ("one", "two", "three")]
    elsewhere = await store.create(make_job("one", tenant="globex"), "", DIGEST)
    await store.create(make_job("three", tenant="globex"), "", DIGEST)
    lease = await claimed(store)
    assert lease.job == made[0].name
    names = [*(job.name for job in made), elsewhere.name, JobName("acme", "none")]
    assert await store.last_sequences(names) == {
        made[0].name: 2,
        made[1].name: 1,
        made[2].name: 1,
        elsewhere.name: 1,
    }
    assert await store.last_sequences([]) == {}


async def test_no_look_at_what_goes_on_reads_what_has_ended(sqlite_url: str) -> None:
    """A trainer that is a year old has ended a million jobs."""
    database = Database(sqlite_url)
    await database.migrate()
    looks = [
        *listing.newest_events([JobName("acme", "one"), JobName("globex", "two")]),
        listing.counts_of(list(JobState)),
    ]
    async with database.read() as connection:
        for look in looks:
            said = str(look.compile(connection.sync_engine, compile_kwargs={"literal_binds": True}))
            plan = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {said}")
            steps = [row.detail for row in plan]
            assert any(step.startswith("SEARCH jobs USING") for step in steps)
            assert not any(step.startswith("SCAN") for step in steps)
    await database.close()


async def test_a_job_s_history_may_begin_with_warnings_and_has_them_once(store: JobStore) -> None:
    warnings = [JobWarning(reason=reason, message="mind") for reason in ("ONE", "TWO")]
    job = await store.create(make_job(), "r1", DIGEST, warnings)
    assert await store.create(make_job("two"), "r1", DIGEST, warnings) == job
    found = await store.events(job.name, 0, 10)
    assert [event.sequence for event in found] == [1, 2, 3]
    assert [event.payload for event in found] == [StateChanged(state=JobState.QUEUED), *warnings]
    assert await store.last_sequence(job.name) == 3
    lease = await claimed(store)
    assert (await store.events(job.name, 3, 10))[0].sequence == 4
    assert lease.job == job.name


async def test_one_request_makes_one_job(store: JobStore) -> None:
    first = await store.create(make_job("one"), "r1", DIGEST)
    assert await store.create(make_job("two"), "r1", DIGEST) == first
    assert await store.find_request("acme", "r1", DIGEST) == first
    assert await store.find_request("other", "r1", DIGEST) is None
    with pytest.raises(AlreadyExists) as caught:
        await store.create(make_job("two"), "r1", "b" * 64)
    assert caught.value.reason == "REQUEST_ID_REUSED"
    with pytest.raises(AlreadyExists) as caught:
        await store.create(make_job("one"), "r2", DIGEST)
    assert caught.value.reason == "JOB_EXISTS"
    await store.create(make_job("one", tenant="other"), "r1", DIGEST)


async def test_concurrent_requests_make_one_job(store: JobStore) -> None:
    made = await asyncio.gather(
        *(store.create(make_job(f"job-{i}"), "same", DIGEST) for i in range(8))
    )
    assert len({job.name for job in made}) == 1
    assert len(await store.page(TenantName("acme"), limit=10)) == 1


async def test_pages_run_from_the_newest(store: JobStore) -> None:
    first = make_job("j0")
    all_jobs = [
        make_job(f"j{i}").model_copy(update={"create_time": first.create_time + timedelta(i // 2)})
        for i in range(5)
    ]
    for job in all_jobs:
        await store.create(job, "", DIGEST)
    await store.create(make_job("else", tenant="other"), "", DIGEST)
    names = [job.name.job for job in await store.page(TenantName("acme"), limit=10)]
    assert names == ["j4", "j3", "j2", "j1", "j0"]
    after = None
    paged: list[str] = []
    while page := await store.page(TenantName("acme"), limit=2, after=after):
        paged += [job.name.job for job in page]
        after = (page[-1].create_time, page[-1].name.job)
    assert paged == names
    one = await store.page(TenantName("acme"), limit=9, adapter=all_jobs[0].spec.adapter_name)
    assert len(one) == 5
    assert await store.page(TenantName("acme"), limit=9, state=JobState.FAILED) == []


async def test_the_oldest_job_is_claimed_once(store: JobStore) -> None:
    for number in range(3):
        await store.create(make_job(f"job-{number}"), "", DIGEST)
    claims = await asyncio.gather(*(store.claim("here") for _ in range(5)))
    names = [found[1].name.job for found in claims if found is not None]
    assert sorted(names) == ["job-0", "job-1", "job-2"]
    assert all(found[0].epoch == 1 for found in claims if found)
    assert await store.claim("here") is None


async def test_events_move_the_job(store: JobStore) -> None:
    job = await store.create(make_job(), "", DIGEST)
    lease = await claimed(store)
    await store.record(lease.write(), StateChanged(state=JobState.RUNNING), step(3))
    await store.record(lease.write(), Evaluation(step=3, validation_loss=1.5, perplexity=4.48))
    found = await store.get(job.name)
    assert found.state is JobState.RUNNING
    assert found.progress is not None
    assert (found.progress.step, found.progress.loss) == (3, 2.5)
    assert found.progress.validation_loss == 1.5
    assert [e.sequence for e in await store.events(job.name, 2, 100)] == [3, 4, 5]
    with pytest.raises(FailedPrecondition):
        await store.record(lease.write(), StateChanged(state=JobState.PREPARING))


async def test_a_lost_lease_can_change_nothing(store: JobStore) -> None:
    job = await store.create(make_job(), "", DIGEST)
    old = await claimed(store)
    assert await store.take_back(OWNER) == []
    for action in (
        store.record(old.write(), step(1)),
        store.allocate_version(old.write(), "v"),
        store.commit(old.write(), Publication.of(make_manifest(VERSION))),
        store.fail(old.write(), JobError(reason="R", message="m")),
        store.cancelled(old.write()),
        store.release(old.write(), GivenBack(error=JobError(reason="R", message="m"))),
    ):
        with pytest.raises(LeaseLost):
            await action
    new = await claimed(store)
    assert new.epoch == old.epoch + 1
    with pytest.raises(LeaseLost):
        await store.record(old.write(), step(1))
    await store.record(new.write(), StateChanged(state=JobState.RUNNING))
    assert await states(store, job.name) == [
        JobState.QUEUED,
        JobState.PREPARING,
        JobState.QUEUED,
        JobState.PREPARING,
        JobState.RUNNING,
    ]


async def publishing(store: JobStore) -> Lease:
    lease = await claimed(store)
    for state in (JobState.RUNNING, JobState.EVALUATING):
        await store.record(lease.write(), StateChanged(state=state))
    earlier = await store.allocate_version(lease.write(), f"v{lease.epoch}")
    assert earlier in {"", f"v{lease.epoch - 1}"}
    return lease


async def test_a_committed_version_outlives_its_trainer(store: JobStore) -> None:
    job = await store.create(make_job(), "", DIGEST)
    lost = await publishing(store)
    assert await store.take_back(OWNER) == []  # not committed: trained again
    again = await publishing(store)
    publication = Publication.of(make_manifest(VERSION))
    await store.commit(again.write(), publication)
    assert await store.take_back(OWNER) == []  # committed: only its outbox is replayed
    assert await store.claim("here") is None
    ((lease, found),) = await store.claim_publications("here")
    assert await store.claim_publications("here") == []
    assert found == publication
    assert lease.epoch == lost.epoch + 2
    await store.succeed(lease.write(), found, Outcome(promoted=True, route_generation=4))
    ended = await store.get(job.name)
    assert (ended.state, ended.version, ended.promoted) == (JobState.SUCCEEDED, VERSION, True)
    assert ended.end_time is not None
    assert await store.claim_publications("here") == []
    with pytest.raises(LeaseLost):
        await store.succeed(lease.write(), found, Outcome(promoted=True))


async def test_a_queued_job_is_cancelled_at_once(store: JobStore) -> None:
    job = await store.create(make_job(), "", DIGEST)
    assert (await store.request_cancel(job.name))[0].state is JobState.CANCELLED
    assert (await store.request_cancel(job.name))[0].state is JobState.CANCELLED
    assert await store.claim("here") is None
    assert await states(store, job.name) == [JobState.QUEUED, JobState.CANCELLED]


async def test_who_ends_a_job_hears_what_it_left(store: JobStore) -> None:
    async def uploaded(name: str) -> Lease:
        await store.create(make_job(name), "", DIGEST)
        return await publishing(store)

    def left(name: str, version: str = "") -> Left:
        folder = f"tenants/acme/adapters/voice/versions/{version}"
        return Left(JobName("acme", name), version and folder)

    queued = await store.create(make_job("queued"), "", DIGEST)
    assert (await store.request_cancel(queued.name))[1] == left("queued")
    assert (await store.request_cancel(queued.name))[1] is None

    held = await uploaded("held")
    await store.request_pause(held.job)
    assert await store.release(held.write()) is None
    assert (await store.request_cancel(held.job))[1] == left("held", "v1")

    failed = await uploaded("failed")
    error = JobError(reason="R", message="m")
    assert await store.fail(failed.write(), error) == left("failed", "v1")

    for name, end in (("stopped", store.cancelled), ("released", store.release)):
        lease = await uploaded(name)
        assert (await store.request_cancel(lease.job))[1] is None
        write = lease.write()
        assert await end(write) == left(name, "v1")
        assert await end(write) == left(name, "v1")  # the answer was lost

    lost = await uploaded("lost")
    await uploaded("going")
    await store.request_cancel(lost.job)
    assert await store.take_back(OWNER) == [left("lost", "v1")]


async def test_a_publication_that_cannot_be_read_holds_up_no_other(store: JobStore) -> None:
    await store.create(make_job("bad"), "", DIGEST)
    publication = Publication.of(make_manifest(VERSION))
    await store.commit((bad := await publishing(store)).write(), publication)
    await change(store, jobs, publication={"manifest": "of a later release"})
    await store.create(make_job("good"), "", DIGEST)
    await store.commit((good := await publishing(store)).write(), publication)
    await store.take_back(OWNER)
    found = await store.claim_publications("next")
    assert [(lease.job, read) for lease, read in found] == [(good.job, publication)]
    assert (await store.get(bad.job)).lease_epoch == bad.epoch


async def test_a_running_job_is_cancelled_when_its_worker_lets_go(store: JobStore) -> None:
    job = await store.create(make_job(), "", DIGEST)
    lease = await claimed(store)
    asked, _ = await store.request_cancel(job.name)
    assert (asked.state, asked.cancel_requested) == (JobState.PREPARING, True)
    await store.cancelled(lease.write())
    assert (await store.get(job.name)).state is JobState.CANCELLED


async def test_a_cancelled_job_does_not_come_back_from_a_lost_trainer(store: JobStore) -> None:
    job = await store.create(make_job(), "", DIGEST)
    await claimed(store)
    await store.request_cancel(job.name)
    await store.take_back(OWNER)
    assert (await store.get(job.name)).state is JobState.CANCELLED


async def test_cancelling_and_committing_exclude_each_other(store: JobStore) -> None:
    publication = Publication.of(make_manifest(VERSION))
    job = await store.create(make_job("one"), "", DIGEST)
    lease = await publishing(store)
    await store.request_cancel(job.name)
    with pytest.raises(CancelRequested):
        await store.commit(lease.write(), publication)
    await store.cancelled(lease.write())

    other = await store.create(make_job("two"), "", DIGEST)
    lease = await publishing(store)
    await store.commit(lease.write(), publication)
    with pytest.raises(FailedPrecondition, match="its version is committed"):
        await store.request_cancel(other.name)


async def test_a_queued_job_is_paused_at_once_and_resumed(store: JobStore) -> None:
    job = await store.create(make_job(), "", DIGEST)
    for _ in range(2):
        paused = await store.request_pause(job.name)
        assert (paused.state, paused.pause_requested) == (JobState.PAUSED, False)
    assert await store.claim("here") is None
    assert (await store.counts())[JobState.PAUSED] == 1
    assert await store.take_back(OWNER) == []
    for _ in range(2):
        assert (await store.request_resume(job.name)).state is JobState.QUEUED
    assert await store.claim("here") is not None
    assert await states(store, job.name) == [
        JobState.QUEUED,
        JobState.PAUSED,
        JobState.QUEUED,
        JobState.PREPARING,
    ]


async def test_a_running_job_is_paused_when_its_worker_lets_go(store: JobStore) -> None:
    job = await store.create(make_job(), "", DIGEST)
    lease = await claimed(store)
    asked = await store.request_pause(job.name)
    assert (asked.state, asked.pause_requested) == (JobState.PREPARING, True)
    await store.release(lease.write())
    found = await store.get(job.name)
    assert (found.state, found.pause_requested, found.error) == (JobState.PAUSED, False, None)
    with pytest.raises(LeaseLost):
        await store.record(lease.write(), step(1))
    await store.request_resume(job.name)
    assert (await claimed(store)).epoch == 2


async def test_a_pause_outlives_its_trainer(store: JobStore) -> None:
    job = await store.create(make_job(), "", DIGEST)
    await claimed(store)
    await store.request_pause(job.name)
    assert await store.take_back(OWNER) == []
    assert (await store.get(job.name)).state is JobState.PAUSED


async def test_a_pause_that_nobody_has_heeded_is_taken_back(store: JobStore) -> None:
    job = await store.create(make_job(), "", DIGEST)
    lease = await claimed(store)
    await store.request_pause(job.name)
    assert not (await store.request_resume(job.name)).pause_requested
    await store.release(lease.write())
    assert (await store.get(job.name)).state is JobState.QUEUED


async def test_a_trainer_pauses_a_job_and_says_why(store: JobStore) -> None:
    job = await store.create(make_job(), "", DIGEST)
    error = JobError(reason="DISK_FULL", message="the trainer's disk is full")
    await store.release((await claimed(store)).write(), GivenBack(error=error))
    found = await store.get(job.name)
    assert (found.state, found.error) == (JobState.PAUSED, error)
    assert (await store.events(job.name, 2, 9))[0].payload == StateChanged(
        state=JobState.PAUSED, error=error
    )
    assert (await store.request_resume(job.name)).error is None


async def test_a_paused_job_is_cancelled_at_once(store: JobStore) -> None:
    job = await store.create(make_job(), "", DIGEST)
    full = GivenBack(error=JobError(reason="DISK_FULL", message="full"))
    await store.release((await claimed(store)).write(), full)
    found, _ = await store.request_cancel(job.name)
    assert (found.state, found.error) == (JobState.CANCELLED, None)
    assert found.end_time is not None
    with pytest.raises(FailedPrecondition, match="it is CANCELLED") as caught:
        await store.request_resume(job.name)
    assert (caught.value.reason, caught.value.metadata) == (
        "JOB_NOT_RESUMABLE",
        {"state": "CANCELLED"},
    )


async def test_what_cannot_be_paused_says_so(store: JobStore) -> None:
    ended = await store.create(make_job("ended"), "", DIGEST)
    await store.fail((await claimed(store)).write(), JobError(reason="R", message="m"))
    going = await store.create(make_job("going"), "", DIGEST)
    await claimed(store)
    await store.request_cancel(going.name)
    committed = await store.create(make_job("committed"), "", DIGEST)
    lease = await publishing(store)
    await store.commit(lease.write(), Publication.of(make_manifest(VERSION)))
    for job, detail, state in (
        (ended, "it is FAILED", "FAILED"),
        (going, "it is being cancelled", "PREPARING"),
        (committed, "its version is committed", "PUBLISHING"),
    ):
        with pytest.raises(FailedPrecondition, match=detail) as caught:
            await store.request_pause(job.name)
        assert (caught.value.reason, caught.value.metadata) == (
            "JOB_NOT_PAUSABLE",
            {"state": state},
        )


async def test_a_job_that_ends_before_its_pause_is_not_to_be_paused(store: JobStore) -> None:
    job = await store.create(make_job(), "", DIGEST)
    lease = await publishing(store)
    await store.request_pause(job.name)
    publication = Publication.of(make_manifest(VERSION))
    await store.commit(lease.write(), publication)
    await store.succeed(lease.write(), publication, Outcome(promoted=False))
    found = await store.get(job.name)
    assert (found.state, found.pause_requested) == (JobState.SUCCEEDED, False)


async def test_a_job_of_an_earlier_release_is_taken_over(store: JobStore) -> None:
    """The schema before pauses, with a job in it."""
    database = store._database
    row = sample("job_row.json") | {"create_time": datetime(2026, 1, 1, tzinfo=UTC)}
    del row["pause_requested"]
    old = sa.table("jobs", *(sa.column(name, jobs.c[name].type) for name in row))
    async with database.write() as connection:
        await connection.run_sync(downgrade, "0001")
        await connection.execute(sa.insert(old).values(row))
    await database.migrate()
    found = await store.get(JobName("acme", "one"))
    assert (found.state, found.pause_requested) == (JobState.PAUSED, False)


def downgrade(connection: sa.Connection, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.downgrade(config, revision)


async def test_a_committed_job_neither_fails_nor_goes_back(store: JobStore) -> None:
    await store.create(make_job(), "", DIGEST)
    lease = await publishing(store)
    await store.commit(lease.write(), Publication.of(make_manifest(VERSION)))
    for action in (
        store.fail(lease.write(), JobError(reason="R", message="m")),
        store.cancelled(lease.write()),
        store.release(lease.write()),
    ):
        with pytest.raises(FailedPrecondition, match="committed"):
            await action


async def test_a_write_whose_answer_was_lost_is_made_once(store: JobStore) -> None:
    job = await store.create(make_job(), "", DIGEST)
    lease = await claimed(store)
    publication = Publication.of(make_manifest(VERSION))
    outcome = Outcome(promoted=True, route_generation=4)
    await twice(lease, lambda write: store.record(write, StateChanged(state=JobState.RUNNING)))
    await twice(lease, lambda write: store.record(write, step(1)))
    await twice(lease, lambda write: store.record(write, StateChanged(state=JobState.EVALUATING)))
    await twice(lease, lambda write: store.allocate_version(write, "v1"))
    await twice(lease, lambda write: store.commit(write, publication))
    await twice(lease, lambda write: store.succeed(write, publication, outcome))
    assert await states(store, job.name) == [
        JobState.QUEUED,
        JobState.PREPARING,
        JobState.RUNNING,
        JobState.EVALUATING,
        JobState.PUBLISHING,
        JobState.SUCCEEDED,
    ]
    assert await store.last_sequence(job.name) == 8


async def test_the_same_event_again_is_another_one(store: JobStore) -> None:
    job = await store.create(make_job(), "", DIGEST)
    lease = await claimed(store)
    await store.record(lease.write(), step(1))
    await store.record(lease.write(), step(1))
    assert await store.last_sequence(job.name) == 4


async def test_a_write_that_was_given_up_does_not_come_after_the_next(store: JobStore) -> None:
    job = await store.create(make_job(), "", DIGEST)
    lease = await claimed(store)
    given_up = lease.write()
    await store.record(lease.write(), step(2))
    await store.record(given_up, step(1))
    assert (await store.get(job.name)).progress == Progress(step=2, total_steps=10, loss=2.5)
    assert await store.last_sequence(job.name) == 3


async def twice(lease: Lease, make: Callable[[Write], Awaitable[object]]) -> None:
    """Make a write, forget that it was made, and make it again."""
    write = lease.write()
    first = await make(write)
    assert await make(write) == first


async def test_a_job_that_does_not_fit_is_passed_over(store: JobStore) -> None:
    for name in ("one", "two", "three"):
        await store.create(make_job(name), "", DIGEST)
    seen: list[str] = []

    def fits(job: Job) -> bool:
        seen.append(job.name.job)
        return job.name.job == "three"

    found = await store.claim("here", fits, avoid={JobName("acme", "one"), JobName("x", "two")})
    assert found is not None
    assert found[1].name.job == "three"
    assert seen == ["two", "three"]


async def test_the_whole_queue_is_looked_at_in_its_order(store: JobStore) -> None:
    now = datetime.now(UTC)
    wanted = []
    # Of two tenants at the same times, so that a page ends between jobs that only they tell apart.
    for number in range(3):
        for tenant in ("acme", "other", "third"):
            made = make_job(f"job-{number}", tenant)
            made = made.model_copy(update={"create_time": now + timedelta(seconds=number // 2)})
            wanted.append((await store.create(made, "", DIGEST)).name)
    await store.create(make_job("bad"), "", DIGEST)
    await change(store, jobs, spec={"sweep": 8}, of=jobs.c.job == "bad")
    seen: list[JobName] = []

    def fits(job: Job) -> bool:
        seen.append(job.name)
        return len(seen) == len(wanted)

    found = await store.claim("here", fits)
    assert seen == wanted
    assert found is not None
    assert found[1].name == wanted[-1]
    seen = [JobName("acme", "none")] * 9
    assert await store.claim("here", fits) is None
    assert len(seen) == 9 + len(wanted) - 1


async def test_jobs_of_a_base_without_room_hide_no_others(store: JobStore) -> None:
    for number in range(9):
        await store.create(make_job(f"job-{number}", base="full"), "", DIGEST)
    await store.create(make_job("last", base="idle"), "", DIGEST)
    passed: set[tuple[str, str]] = set()
    seen: list[str] = []

    def fits(job: Job) -> bool:
        seen.append(job.name.job)
        if job.spec.base_model == "full":
            passed.add((job.spec.base_model, job.spec.base_model_digest))
        return job.spec.base_model == "idle"

    found = await store.claim("here", fits, passed=passed)
    assert found is not None
    assert seen == ["job-0", "last"]


async def test_a_job_without_a_digest_is_not_taken_for_one_of_a_base_without_room(
    store: JobStore,
) -> None:
    for number in range(4):
        made = await store.create(make_job(f"job-{number}"), "", DIGEST)
    spec = {**made.spec.model_dump(mode="json")}
    del spec["base_model_digest"]
    await change(store, jobs, spec=spec, of=jobs.c.job == "job-3")
    passed = {(made.spec.base_model, made.spec.base_model_digest)}
    found = await store.claim("here", lambda job: job.name.job == "job-3", passed=passed)
    assert found is not None
    assert found[1].spec.base_model_digest == ""


async def test_only_what_its_owner_left_is_taken_back(store: JobStore) -> None:
    for name in ("one", "two", "three"):
        await store.create(make_job(name), "", DIGEST)
    await store.claim("me")
    await store.claim("me")
    await store.claim("you")
    assert await store.take_back("me", {JobName("acme", "two")}) == []
    found = [(await store.get(JobName("acme", name))).state for name in ("one", "two", "three")]
    assert found == [JobState.QUEUED, JobState.PREPARING, JobState.PREPARING]


async def test_committed_versions_whose_holder_is_gone_are_taken_up(store: JobStore) -> None:
    await store.create(make_job(), "", DIGEST)
    lease = await publishing(store)
    await store.commit(lease.write(), Publication.of(make_manifest(VERSION)))
    assert await store.claim_publications("me") == []
    assert await store.take_back("here", {lease.job}) == []
    assert await store.claim_publications("me") == []
    assert await store.take_back("here") == []
    ((again, _),) = await store.claim_publications("me")
    assert again.epoch == lease.epoch + 1
    assert await store.claim_publications("you") == []


async def test_a_committed_version_is_not_claimed_by_who_writes_it_still(
    store: JobStore,
) -> None:
    await store.create(make_job(), "", DIGEST)
    lease = await publishing(store)
    await store.commit(lease.write(), Publication.of(make_manifest(VERSION)))
    store.lease_seconds = 0.0
    await store.keep_leases("here")
    assert await store.claim_publications("here", {lease.job}) == []
    ((again, _),) = await store.claim_publications("here")
    assert again.epoch == lease.epoch + 1


async def change(
    store: JobStore,
    table: sa.Table,
    of: sa.ColumnElement[bool] | None = None,
    **values: object,
) -> None:
    """Write as another release would."""
    async with store._database.write() as connection:
        rows = sa.true() if of is None else of
        await connection.execute(sa.update(table).where(rows).values(**values))


async def test_a_job_that_only_a_later_release_can_read_hides_no_other(store: JobStore) -> None:
    tenant = TenantName("acme")
    made = [await store.create(make_job(f"job-{number}"), "", DIGEST) for number in range(5)]
    for number in (1, 2, 4):
        await change(store, jobs, jobs.c.job == f"job-{number}", spec={"of": "later"})
    assert await store.page(tenant, limit=9) == [made[3], made[0]]
    assert await store.page(tenant, limit=2) == [made[3], made[0]]
    first = await store.page(tenant, limit=1)
    assert first == [made[3]]
    assert await store.page(tenant, limit=1, after=(first[0].create_time, "job-3")) == [made[0]]
    assert await store.page(tenant, limit=1, after=(made[0].create_time, "job-0")) == []


async def test_what_a_later_release_wrote_into_the_history_is_passed_over(store: JobStore) -> None:
    job = await store.create(make_job(), "", DIGEST)
    lease = await claimed(store)
    await change(store, events, payload={"kind": "sample", "text": "a b c"})
    await store.record(lease.write(), step(1))
    found = await store.events(job.name, 0, 9)
    assert [event.sequence for event in found] == [1, 2, 3]
    assert [type(event.payload) for event in found] == [Unknown, Unknown, StepProgress]
    assert found[0].payload.kind == "sample"


async def test_figures_of_a_later_release_are_kept(store: JobStore) -> None:
    job = await store.create(make_job(), "", DIGEST)
    lease = await claimed(store)
    await change(store, jobs, progress={"step": 1, "total_steps": 10, "accuracy": 0.5})
    await store.record(lease.write(), step(3))
    async with store._database.read() as connection:
        stored = (await connection.execute(sa.select(jobs.c.progress))).scalar_one()
    assert stored["accuracy"] == 0.5
    assert stored["step"] == 3
    assert (await store.get(job.name)).progress is not None


async def test_a_state_of_a_later_release_is_left_alone(store: JobStore) -> None:
    job = await store.create(make_job(), "", DIGEST)
    lease = await claimed(store)
    await change(store, jobs, state="JUDGED")
    assert (await store.get(job.name)).state is JobState.UNSPECIFIED
    assert len(await store.page(TenantName("acme"), limit=9)) == 1
    assert sum((await store.counts()).values()) == 0
    assert await store.take_back(OWNER) == []
    assert await store.claim("here") is None
    with pytest.raises(LeaseLost):
        await store.record(lease.write(), step(1))
    for request in (store.request_cancel, store.request_pause, store.request_resume):
        with pytest.raises(FailedPrecondition, match="it is JUDGED"):
            await request(job.name)


async def test_a_job_that_cannot_be_read_holds_up_no_other(store: JobStore) -> None:
    bad = await store.create(make_job("bad"), "", DIGEST)
    await change(store, jobs, spec={"sweep": 8})
    await store.create(make_job("good"), "", DIGEST)
    found = await store.claim("here")
    assert found is not None
    assert found[1].name.job == "good"
    assert await store.claim("here") is None
    assert await states(store, bad.name) == [JobState.QUEUED]


async def test_an_ended_job_cannot_be_cancelled(store: JobStore) -> None:
    job = await store.create(make_job(), "", DIGEST)
    lease = await claimed(store)
    error = JobError(reason="NON_FINITE", message="loss is NaN", metadata={"step": "3"})
    await store.fail(lease.write(), error)
    assert (await store.get(job.name)).error == error
    with pytest.raises(FailedPrecondition, match="it is FAILED"):
        await store.request_cancel(job.name)


async def test_counts_what_has_not_ended(store: JobStore) -> None:
    for number in range(3):
        await store.create(make_job(f"job-{number}"), "", DIGEST)
    await store.fail((await claimed(store)).write(), JobError(reason="R", message="m"))
    await claimed(store)
    counts = await store.counts()
    assert counts[JobState.QUEUED] == 1
    assert counts[JobState.PREPARING] == 1
    assert JobState.FAILED not in counts


async def test_hyperparameters_keep_what_is_unset(store: JobStore) -> None:
    job = make_job()
    spec = job.spec.model_copy(update={"hyperparameters": Hyperparameters(epochs=3)})
    await store.create(job.model_copy(update={"spec": spec}), "", DIGEST)
    assert (await store.get(job.name)).spec == spec


async def test_a_database_that_is_gone_is_unavailable() -> None:
    database = Database("sqlite+aiosqlite:////nowhere/at/all.db")
    with pytest.raises(DatabaseUnavailable):
        await database.migrate()
    await database.close()
    # The thread of a connection that failed answers to this event loop once more.
    for thread in threading.enumerate():
        if "_connection_worker_thread" in thread.name:
            await asyncio.to_thread(thread.join, 10)
