"""Versions that are committed and cannot be written for now: they wait, and hold up nobody."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from tailorbird.errors import StoreUnavailable
from tailorbird.object_store import ObstoreStore
from tailorbird.registry import AdapterRegistry
from tests.unit.trainer_svc.dispatching import Make, ended, running, states
from tests.unit.trainer_svc.fakes import ScriptedExecutor, published
from tests.unit.trainer_svc.values import make_job
from trainer_svc.jobs.database import DatabaseUnavailable
from trainer_svc.jobs.events import JobWarning
from trainer_svc.jobs.model import JobState
from trainer_svc.jobs.store import JobStore


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer_svc.dispatch.backoff._SECONDS", (0.001,))
    monkeypatch.setattr("trainer_svc.dispatch.losses._SECONDS", (0.001,))


class Broken:
    """What writes no version of the job "one" until it is mended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str, error: Exception) -> None:
        self.tries = 0
        self.mended = False
        original = getattr(AdapterRegistry, method)

        async def fail(registry: AdapterRegistry, *given: Any, **named: Any) -> Any:
            if "one" in str(given[0]) and not self.mended:
                self.tries += 1
                raise error
            return await original(registry, *given, **named)

        monkeypatch.setattr(AdapterRegistry, method, fail)


@pytest.mark.parametrize(
    "error", [StoreUnavailable("403 Forbidden"), ValueError("nobody thought of it")]
)
async def test_a_version_that_cannot_be_written_holds_up_nobody_and_is_written_later(
    make: Make,
    jobs: JobStore,
    object_store: ObstoreStore,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    broken = Broken(monkeypatch, "publish", error)
    one, *others = [
        await jobs.create(make_job(name), "", "a" * 64) for name in ("one", "two", "three")
    ]
    # With room for one job at a time.
    async with running(make(ScriptedExecutor(object_store))):
        for job in others:
            assert (await ended(jobs, job.name)).state is JobState.SUCCEEDED
        assert (await jobs.get(one.name)).state is JobState.PUBLISHING
        broken.mended = True
        found = await ended(jobs, one.name)
    assert found.state is JobState.SUCCEEDED
    assert broken.tries >= 2
    told = [event.payload for event in await jobs.events(one.name, 0, 100)]
    (warning,) = [each for each in told if isinstance(each, JobWarning)]
    assert warning.reason == "PUBLICATION_WAITS"
    assert getattr(error, "message", "ValueError") in warning.message
    assert len(await published(object_store)) == 3


async def test_a_route_that_cannot_be_told_is_asked_for_a_few_times_before_the_commit(
    make: Make, jobs: JobStore, object_store: ObstoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Broken(monkeypatch, "next_generation", StoreUnavailable("403 Forbidden"))
    one = await jobs.create(make_job(adapter="one"), "", "a" * 64)
    two = await jobs.create(make_job("two"), "", "b" * 64)
    said = "tried again in 0.001 s: STORE_UNAVAILABLE: 403 Forbidden"
    waits = JobWarning(reason="JOB_WAITS", message=said)
    async with running(make(ScriptedExecutor(object_store))):
        found = await ended(jobs, one.name, JobState.PAUSED)
        assert (await ended(jobs, two.name)).state is JobState.SUCCEEDED
        assert found.state is JobState.PAUSED
        assert found.error is not None
        assert found.error.message == "tried 20 times in a row; last: 403 Forbidden"
        told = [event.payload for event in await jobs.events(one.name, 0, 1000)]
        assert told.count(waits) == 19
        broken.mended = True
        await jobs.request_resume(one.name)
        assert (await ended(jobs, one.name)).state is JobState.SUCCEEDED
    assert len(await published(object_store)) == 2


async def test_a_job_store_that_is_away_before_the_commit_throws_no_job_back(
    make: Make, jobs: JobStore, object_store: ObstoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    time, asked, left = jobs.time, AdapterRegistry.next_generation, 0

    async def next_generation(registry: AdapterRegistry, *given: Any) -> int:
        nonlocal left
        left = 20
        return await asked(registry, *given)

    async def away() -> datetime:
        nonlocal left
        if left:
            left -= 1
            raise DatabaseUnavailable("away")
        return await time()

    monkeypatch.setattr(AdapterRegistry, "next_generation", next_generation)
    monkeypatch.setattr(jobs, "time", away)
    one = await jobs.create(make_job("one"), "", "a" * 64)
    async with running(make(ScriptedExecutor(object_store))):
        assert (await ended(jobs, one.name)).state is JobState.SUCCEEDED
    assert left == 0
    assert (await states(jobs, one.name)).count("PREPARING") == 1
