"""What any database behind the job store must do; here SQLite and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from tailorbird.errors import AlreadyExists, FailedPrecondition, LeaseLost, NotFound
from tailorbird.names import JobName, TenantName
from tests.unit.trainer_svc.values import make_job, make_manifest
from trainer_svc.jobs.database import Database, DatabaseUnavailable
from trainer_svc.jobs.feed import Feed
from trainer_svc.jobs.model import (
    Evaluation,
    Hyperparameters,
    JobError,
    JobState,
    StateChanged,
    StepProgress,
)
from trainer_svc.jobs.publication import Outcome, Publication
from trainer_svc.jobs.store import CancelRequested, JobStore, Lease

DIGEST = "a" * 64
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
    events = await store.events(name, 0, 100)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    return [e.payload.state for e in events if isinstance(e.payload, StateChanged)]


async def test_a_job_is_found_as_it_was_made(store: JobStore) -> None:
    job = make_job()
    assert await store.create(job, "", DIGEST) == job
    assert await store.get(job.name) == job
    assert await states(store, job.name) == [JobState.QUEUED]


async def test_unknown_jobs_are_not_found(store: JobStore) -> None:
    with pytest.raises(NotFound):
        await store.get(JobName("acme", "none"))
    with pytest.raises(NotFound):
        await store.last_sequence(JobName("acme", "none"))


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
    await store.record(lease, StateChanged(state=JobState.RUNNING), step(3))
    await store.record(lease, Evaluation(step=3, validation_loss=1.5, perplexity=4.48))
    found = await store.get(job.name)
    assert found.state is JobState.RUNNING
    assert found.progress is not None
    assert (found.progress.step, found.progress.loss) == (3, 2.5)
    assert found.progress.validation_loss == 1.5
    assert [e.sequence for e in await store.events(job.name, 2, 100)] == [3, 4, 5]
    with pytest.raises(FailedPrecondition):
        await store.record(lease, StateChanged(state=JobState.PREPARING))


async def test_a_lost_lease_can_change_nothing(store: JobStore) -> None:
    job = await store.create(make_job(), "", DIGEST)
    old = await claimed(store)
    assert await store.requeue_lost() == 1
    for action in (
        store.record(old, step(1)),
        store.allocate_version(old, "v"),
        store.commit(old, Publication(manifest=make_manifest(VERSION), route=None)),
        store.fail(old, JobError(reason="R", message="m")),
        store.cancelled(old),
        store.release(old),
    ):
        with pytest.raises(LeaseLost):
            await action
    new = await claimed(store)
    assert new.epoch == old.epoch + 1
    with pytest.raises(LeaseLost):
        await store.record(old, step(1))
    await store.record(new, StateChanged(state=JobState.RUNNING))
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
        await store.record(lease, StateChanged(state=state))
    assert await store.allocate_version(lease, f"v{lease.epoch}") in {"", f"v{lease.epoch - 1}"}
    return lease


async def test_a_committed_version_outlives_its_trainer(store: JobStore) -> None:
    job = await store.create(make_job(), "", DIGEST)
    lost = await publishing(store)
    assert await store.requeue_lost() == 1  # not committed: trained again
    again = await publishing(store)
    publication = Publication(manifest=make_manifest(VERSION), route=None)
    await store.commit(again, publication)
    assert await store.requeue_lost() == 0  # committed: only its outbox is replayed
    assert await store.claim("here") is None
    ((lease, found),) = await store.claim_publications("here")
    assert found == publication
    assert lease.epoch == lost.epoch + 2
    await store.succeed(lease, found, Outcome(promoted=True, route_generation=4))
    ended = await store.get(job.name)
    assert (ended.state, ended.version, ended.promoted) == (JobState.SUCCEEDED, VERSION, True)
    assert ended.end_time is not None
    assert await store.claim_publications("here") == []
    with pytest.raises(LeaseLost):
        await store.succeed(lease, found, Outcome(promoted=True))


async def test_a_queued_job_is_cancelled_at_once(store: JobStore) -> None:
    job = await store.create(make_job(), "", DIGEST)
    assert (await store.request_cancel(job.name)).state is JobState.CANCELLED
    assert (await store.request_cancel(job.name)).state is JobState.CANCELLED
    assert await store.claim("here") is None
    assert await states(store, job.name) == [JobState.QUEUED, JobState.CANCELLED]


async def test_a_running_job_is_cancelled_when_its_worker_lets_go(store: JobStore) -> None:
    job = await store.create(make_job(), "", DIGEST)
    lease = await claimed(store)
    asked = await store.request_cancel(job.name)
    assert (asked.state, asked.cancel_requested) == (JobState.PREPARING, True)
    await store.cancelled(lease)
    assert (await store.get(job.name)).state is JobState.CANCELLED


async def test_a_cancelled_job_does_not_come_back_from_a_lost_trainer(store: JobStore) -> None:
    job = await store.create(make_job(), "", DIGEST)
    await claimed(store)
    await store.request_cancel(job.name)
    await store.requeue_lost()
    assert (await store.get(job.name)).state is JobState.CANCELLED


async def test_cancelling_and_committing_exclude_each_other(store: JobStore) -> None:
    publication = Publication(manifest=make_manifest(VERSION), route=None)
    job = await store.create(make_job("one"), "", DIGEST)
    lease = await publishing(store)
    await store.request_cancel(job.name)
    with pytest.raises(CancelRequested):
        await store.commit(lease, publication)
    await store.cancelled(lease)

    other = await store.create(make_job("two"), "", DIGEST)
    lease = await publishing(store)
    await store.commit(lease, publication)
    with pytest.raises(FailedPrecondition, match="its version is committed"):
        await store.request_cancel(other.name)


async def test_an_ended_job_cannot_be_cancelled(store: JobStore) -> None:
    job = await store.create(make_job(), "", DIGEST)
    lease = await claimed(store)
    error = JobError(reason="NON_FINITE", message="loss is NaN", metadata={"step": "3"})
    await store.fail(lease, error)
    assert (await store.get(job.name)).error == error
    with pytest.raises(FailedPrecondition, match="it is FAILED"):
        await store.request_cancel(job.name)


async def test_counts_what_has_not_ended(store: JobStore) -> None:
    for number in range(3):
        await store.create(make_job(f"job-{number}"), "", DIGEST)
    await store.fail(await claimed(store), JobError(reason="R", message="m"))
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
