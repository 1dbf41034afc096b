"""A version that takes longer to write than its lease lasts, while the job store was away."""

from __future__ import annotations

import asyncio

import pytest

from tailorbird.object_store import ObstoreStore
from tailorbird.registry import AdapterRegistry
from tests.unit.trainer_svc.dispatching import Make, ended, running, states
from tests.unit.trainer_svc.fakes import ScriptedExecutor
from tests.unit.trainer_svc.values import make_job, make_manifest
from trainer_svc.jobs.events import StateChanged
from trainer_svc.jobs.model import JobState
from trainer_svc.jobs.publication import Outcome, Publication, publish
from trainer_svc.jobs.store import JobStore

VERSION = "tenants/acme/adapters/voice/versions/20260101T000000-one-1"


async def test_its_own_trainer_does_not_claim_it_again(
    make: Make, jobs: JobStore, object_store: ObstoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer_svc.dispatch.dispatcher._POLL_SECONDS", 0.01)
    looked, begun, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()
    written: list[str] = []

    async def slowly(registry: AdapterRegistry, publication: Publication) -> Outcome:
        written.append(publication.manifest.version)
        begun.set()
        await go_on.wait()
        return await publish(registry, publication)

    async def not_kept(_: str) -> dict[object, object]:
        return {}

    claim = jobs.claim_publications

    async def claimed(*arguments: object) -> object:
        found = await claim(*arguments)  # type: ignore[arg-type]
        if begun.is_set():
            looked.set()
        return found

    monkeypatch.setattr("trainer_svc.dispatch.publisher.publish", slowly)
    monkeypatch.setattr(jobs, "keep_leases", not_kept)
    monkeypatch.setattr(jobs, "take_over", _nothing)
    monkeypatch.setattr(jobs, "claim_publications", claimed)
    job = await jobs.create(make_job(), "", "a" * 64)
    found = await jobs.claim("lost")
    assert found is not None
    lease = found[0]
    for state in (JobState.RUNNING, JobState.EVALUATING):
        await jobs.record(lease.write(), StateChanged(state=state))
    await jobs.allocate_version(lease.write(), VERSION.rpartition("/")[2])
    await jobs.commit(lease.write(), Publication.of(make_manifest(VERSION)))
    await jobs.take_back("lost")
    jobs.lease_seconds = 0.0
    async with running(make(ScriptedExecutor(object_store))):
        await begun.wait()
        # By now its lease is over.
        for _ in range(2):
            looked.clear()
            await looked.wait()
        go_on.set()
        assert (await ended(jobs, job.name)).version == VERSION
    assert written == [VERSION]
    assert (await states(jobs, job.name))[-2:] == ["PUBLISHING", "SUCCEEDED"]
    assert (await jobs.get(job.name)).lease_epoch == 2


async def _nothing() -> list[object]:
    return []
