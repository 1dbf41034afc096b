"""CancelJob at every moment of a job's life, another trainer's or its own: one end, and its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tailorbird.errors import FailedPrecondition
from tailorbird.names import JobName
from tailorbird.object_store import ObstoreStore
from tests.contract.trainers import Trainer, Trainers, in_state, queue, trainers
from tests.unit.trainer_svc.dispatching import states
from tests.unit.trainer_svc.fakes import published
from trainer_svc.jobs.model import TERMINAL, JobState

EVENTS = 10
"""Of a job that nobody cancels, at least."""


@pytest.fixture(params=["sqlite", "postgresql"])
async def world(
    request: pytest.FixtureRequest, object_store: ObstoreStore, tmp_path: Path
) -> AsyncIterator[Trainers]:
    url: str = request.getfixturevalue(f"{request.param}_url")
    async with trainers(url, object_store, tmp_path) as made:
        yield made


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "elsewhere"])
async def test_a_job_that_is_cancelled_while_it_ends_has_one_end(
    world: Trainers, elsewhere: bool
) -> None:
    reader = world.reader()
    made = await queue(reader, *(f"job-{number:02}" for number in range(2 * EVENTS)))
    trainer = world.start(jobs_per_worker=8)
    asked = reader if elsewhere else trainer.jobs

    async def cancel_at(number: int) -> bool:
        """Cancel a job once it has so many events; tell whether it was in time."""
        name = made[number].name
        with trainer.feed.subscribe(name) as changed:
            while await trainer.jobs.last_sequence(name) < 1 + number // 2:
                await changed.wait()
                changed.clear()
        try:
            job, left = await asked.request_cancel(name)
        except FailedPrecondition:
            return False
        if left is None and job.state not in TERMINAL and not elsewhere:
            await trainer.dispatcher.cancel(name)
        return True

    in_time = await asyncio.gather(*map(cancel_at, range(len(made))))
    await check_ends(world, trainer, [job.name for job in made], in_time)
    assert any(in_time)


async def check_ends(
    world: Trainers, trainer: Trainer, names: list[JobName], in_time: list[bool]
) -> None:
    versions = []
    for name, cancelled in zip(names, in_time, strict=True):
        found = await in_state(trainer.jobs, name)
        assert found.state is (JobState.CANCELLED if cancelled else JobState.SUCCEEDED)
        told = await states(trainer.jobs, found.name)
        assert sum(JobState(state) in TERMINAL for state in told) == 1
        assert told[-1] == found.state
        versions += [f"{found.version}/manifest.json"] if found.version else []
        assert bool(found.version) is not cancelled
    assert await published(world.store) == sorted(versions)
