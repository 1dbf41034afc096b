"""Sweeps in the job store: what is known of their trials, and who may take them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa

from tailorbird.names import JobName, TenantName
from tests.contract.test_job_store import downgrade
from tests.unit.trainer_svc.values import make_job, make_manifest, make_sweep
from trainer_svc.jobs.database import Database
from trainer_svc.jobs.events import StateChanged
from trainer_svc.jobs.feed import Feed
from trainer_svc.jobs.fence import Lease
from trainer_svc.jobs.model import TERMINAL, JobState, stored_state
from trainer_svc.jobs.publication import Outcome, Publication
from trainer_svc.jobs.store import JobStore
from trainer_svc.jobs.sweep import HALVED, TrialReached
from trainer_svc.jobs.tables import jobs

DIGEST = "a" * 64
ACME = TenantName("acme")


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[JobStore]:
    url: str = request.getfixturevalue(f"{request.param}_url")
    database = Database(url)
    await database.migrate()
    yield JobStore(database, Feed())
    await database.close()


async def claimed(store: JobStore) -> Lease:
    found = await store.claim("here")
    assert found is not None
    return found[0]


def reached(trial: int, loss: float) -> TrialReached:
    return TrialReached(
        trial=trial, rung=0, step=2, total_steps=8,
        learning_rate=0.1, epochs=2, validation_loss=loss,
    )  # fmt: skip


async def stored(store: JobStore, name: JobName) -> str:
    """The state as an earlier release, which knows of no sweeps, would find it."""
    async with store._database.read() as connection:
        query = sa.select(jobs.c.state).where(jobs.c.job == name.job)
        return str((await connection.execute(query)).scalar_one())


async def test_a_sweep_is_found_as_it_was_made(store: JobStore) -> None:
    sweep = await store.create(make_sweep(), "", DIGEST)
    assert await store.get(sweep.name) == sweep
    assert sweep.sweep is not None
    assert len(sweep.sweep.trials) == 4


async def test_what_a_later_release_knows_of_trials_stays(store: JobStore) -> None:
    sweep = await store.create(make_sweep(trials=2), "", DIGEST)
    lease = await claimed(store)
    await store.record(lease.write(), reached(0, 2.0))
    column = sa.select(jobs.c.sweep).where(jobs.c.job == sweep.name.job)
    async with store._database.write() as connection:
        known = (await connection.execute(column)).scalar_one()
        known["later"] = 1
        known["trials"][0] |= {"later": 2}
        known["trials"][0]["rungs"][0] |= {"later": 3}
        await connection.execute(sa.update(jobs).values(sweep=known))
    await store.record(lease.write(), reached(1, 1.0))
    async with store._database.read() as connection:
        found = (await connection.execute(column)).scalar_one()
    assert found["later"] == 1
    assert found["trials"][0]["later"] == 2
    assert found["trials"][0]["rungs"][0]["later"] == 3
    assert found["trials"][1]["rungs"][0]["validation_loss"] == 1.0


async def test_what_is_said_of_trials_is_known(store: JobStore) -> None:
    sweep = await store.create(make_sweep(trials=2), "", DIGEST)
    lease = await claimed(store)
    await store.record(lease.write(), reached(0, 2.0))
    await store.record(lease.write(), reached(1, 1.0))
    found = await store.get(sweep.name)
    assert found.sweep is not None
    await store.record(lease.write(), found.sweep.decide(1))
    found = await store.get(sweep.name)
    assert found.sweep is not None
    assert found.sweep.active == [1]
    assert found.sweep.decided == 1
    assert found.sweep.trials[0].stop_reason == HALVED
    assert found.sweep.trials[0].rungs[0].validation_loss == 2.0
    kinds = [event.payload.kind for event in await store.events(sweep.name, 0, 100)]
    assert kinds[-3:] == ["trial_reached", "trial_reached", "rung_decided"]


async def test_what_a_later_release_knows_of_a_sweep_stays(store: JobStore) -> None:
    sweep = await store.create(make_sweep(trials=2), "", DIGEST)
    lease = await claimed(store)
    async with store._database.write() as connection:
        row = (await connection.execute(sa.select(jobs.c.sweep))).scalar_one()
        await connection.execute(sa.update(jobs).values(sweep={**row, "later": 7}))
    await store.record(lease.write(), reached(0, 2.0))
    async with store._database.read() as connection:
        row = (await connection.execute(sa.select(jobs.c.sweep))).scalar_one()
    assert row["later"] == 7
    found = await store.get(sweep.name)
    assert found.sweep is not None
    assert len(found.sweep.trials[0].rungs) == 1


async def test_a_job_of_its_own_has_no_trials_whatever_is_said(store: JobStore) -> None:
    job = await store.create(make_job(), "", DIGEST)
    await store.record((await claimed(store)).write(), reached(0, 2.0))
    assert (await store.get(job.name)).sweep is None


async def test_sweeps_are_listed_apart(store: JobStore) -> None:
    await store.create(make_job("one"), "", DIGEST)
    first = await store.create(make_sweep("first"), "", DIGEST)
    second = await store.create(make_sweep("second"), "", DIGEST)
    found = await store.page(ACME, limit=10, sweeps=True)
    assert [job.name for job in found] == [second.name, first.name]
    assert len(await store.page(ACME, limit=10)) == 3


async def test_sweeps_are_found_among_many_jobs_without_a_look_at_each(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    await database.migrate()
    asked = []

    def noted(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        asked.append((statement, parameters))

    sa.event.listen(database._engine.sync_engine, "before_cursor_execute", noted)
    await JobStore(database, Feed()).page(ACME, limit=10, sweeps=True)
    ((statement, parameters),) = [each for each in asked if "FROM jobs" in each[0]]
    async with database.read() as connection:
        plan = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        assert "ix_jobs_sweeps" in str(plan.all())
    await database.close()


async def test_an_earlier_release_takes_no_sweep_from_the_queue(store: JobStore) -> None:
    """It asks for QUEUED; it would train one job and publish that."""
    sweep = await store.create(make_sweep(), "", DIGEST)
    assert await stored(store, sweep.name) == "QUEUED_SWEEP"
    assert (await store.get(sweep.name)).state is JobState.QUEUED
    assert (await store.counts())[JobState.QUEUED] == 1
    lease = await claimed(store)
    assert await stored(store, sweep.name) == "PREPARING_SWEEP"
    await store.release(lease.write())
    assert await stored(store, sweep.name) == "QUEUED_SWEEP"
    await store.request_pause(sweep.name)
    assert await stored(store, sweep.name) == "PAUSED_SWEEP"
    assert (await store.get(sweep.name)).state is JobState.PAUSED
    await store.request_resume(sweep.name)
    await store.create(make_job(), "", DIGEST)
    assert (await store.counts())[JobState.QUEUED] == 2
    assert len(await store.page(ACME, limit=10, state=JobState.QUEUED)) == 2
    assert await store.take_back("") == []
    assert await stored(store, sweep.name) == "QUEUED_SWEEP"
    await claimed(store)
    await store.take_back("")
    assert await stored(store, sweep.name) == "QUEUED_SWEEP"
    cancelled, left = await store.request_cancel(sweep.name)
    assert (cancelled.state, left is not None) == (JobState.CANCELLED, True)
    assert await stored(store, sweep.name) == "CANCELLED"


async def test_an_earlier_release_puts_no_lost_sweep_back_into_the_queue(store: JobStore) -> None:
    """It would put it there as QUEUED; it looks for its own names of the active states."""
    sweep = await store.create(make_sweep(), "", DIGEST)
    lease = await claimed(store)
    version = f"{sweep.spec.adapter}/versions/v1"
    for state in (JobState.RUNNING, JobState.EVALUATING):
        await store.record(lease.write(), StateChanged(state=state))
        assert await stored(store, sweep.name) == f"{state}_SWEEP"
        assert (await store.get(sweep.name)).state is state
        assert len(await store.page(ACME, limit=10, state=state)) == 1
    await store.allocate_version(lease.write(), "v1")
    assert await stored(store, sweep.name) == "PUBLISHING_SWEEP"
    assert (await store.counts())[JobState.PUBLISHING] == 1
    publication = Publication.of(make_manifest(version))
    await store.commit(lease.write(), publication)
    await store.take_back("")
    ((again, found),) = await store.claim_publications("there")
    assert found == publication
    await store.succeed(again.write(), found, Outcome(promoted=False, route_generation=0))
    assert await stored(store, sweep.name) == "SUCCEEDED"


async def test_the_history_has_the_states_that_callers_know(store: JobStore) -> None:
    sweep = await store.create(make_sweep(), "", DIGEST)
    await store.release((await claimed(store)).write())
    told = [event.payload for event in await store.events(sweep.name, 0, 10)]
    assert told == [
        StateChanged(state=state)
        for state in (JobState.QUEUED, JobState.PREPARING, JobState.QUEUED)
    ]


@pytest.mark.parametrize("state", sorted(set(JobState) - {JobState.UNSPECIFIED}))
def test_every_state_is_read_as_it_is_stored(state: JobState) -> None:
    assert JobState(stored_state(state, sweep=True)) is state
    assert JobState(stored_state(state, sweep=False)) is state
    assert (stored_state(state, sweep=True) == state) is (state in TERMINAL)
    assert JobState("SUCCEEDED_SWEEP") is JobState.UNSPECIFIED
    assert len(stored_state(state, sweep=True)) <= jobs.c.state.type.length  # type: ignore[attr-defined]


async def test_a_job_of_the_release_before_sweeps_is_taken_over(store: JobStore) -> None:
    job = await store.create(make_job(), "", DIGEST)
    async with store._database.write() as connection:
        await connection.run_sync(downgrade, "0002")
    await store._database.migrate()
    assert await store.get(job.name) == job
    sweep = await store.create(make_sweep(), "", DIGEST)
    assert [found.name for found in await store.page(ACME, limit=5, sweeps=True)] == [sweep.name]
