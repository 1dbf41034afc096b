"""AUTO_IF_BETTER: the route moves by what the worker found out, and by what it was held against."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tailorbird.manifest import AdapterManifest, Decision
from tailorbird.object_store import ObstoreStore
from tailorbird.registry import AdapterRegistry
from tailorbird.routes import Route, RoutedVersion
from tests.unit.trainer_svc.dispatching import Make, ended, running
from tests.unit.trainer_svc.fakes import ScriptedExecutor
from tests.unit.trainer_svc.values import make_job, make_manifest
from trainer_svc.jobs.events import Published
from trainer_svc.jobs.model import Job, JobState, PromotionPolicy
from trainer_svc.jobs.store import JobStore

BETTER = Decision(promote=True, reason="BETTER", message="it is")
WORSE = Decision(promote=False, reason="NOT_BETTER_THAN_FEW_SHOT", message="it is not")


def judged(patch: pytest.MonkeyPatch, decision: Decision | None) -> None:
    """Let every worker upload a version that was judged so."""

    def manifest(version: str) -> AdapterManifest:
        made = make_manifest(version)
        evaluation = made.evaluation.model_copy(update={"decision": decision})
        return made.model_copy(update={"evaluation": evaluation})

    patch.setattr("tests.unit.trainer_svc.fakes.make_manifest", manifest)


async def published(make: Make, jobs: JobStore, store: ObstoreStore) -> Job:
    job = make_job(policy=PromotionPolicy.AUTO_IF_BETTER)
    job = await jobs.create(job, "", "a" * 64)
    async with running(make(ScriptedExecutor(store))):
        return await ended(jobs, job.name)


async def routed(store: ObstoreStore, generation: int) -> Route:
    adapter = make_job().spec.adapter_name
    route = Route(
        generation=generation,
        versions=(RoutedVersion(version="20250101T000000-x-1"),),
        reason="promote",
        actor="somebody",
        create_time=datetime.now(UTC),
        nonce="theirs",
    )
    await AdapterRegistry(store).append_route(adapter, route)
    return route


async def test_a_better_version_is_promoted(
    make: Make, jobs: JobStore, object_store: ObstoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged(monkeypatch, BETTER)
    found = await published(make, jobs, object_store)
    assert (found.state, found.promoted) == (JobState.SUCCEEDED, True)


async def test_the_reason_is_told_where_it_is_not_better(
    make: Make, jobs: JobStore, object_store: ObstoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged(monkeypatch, WORSE)
    found = await published(make, jobs, object_store)
    assert (found.state, found.promoted) == (JobState.SUCCEEDED, False)
    assert found.promotion_refusal == "NOT_BETTER_THAN_FEW_SHOT"
    assert await AdapterRegistry(object_store).head(found.spec.adapter_name) is None
    (told,) = [
        event.payload
        for event in await jobs.events(found.name, 0, 100)
        if isinstance(event.payload, Published)
    ]
    assert told.promotion_refusal == "NOT_BETTER_THAN_FEW_SHOT"


async def test_what_nobody_judged_is_not_promoted(
    make: Make, jobs: JobStore, object_store: ObstoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged(monkeypatch, None)
    found = await published(make, jobs, object_store)
    assert (found.promoted, found.promotion_refusal) == (False, "NOT_JUDGED")


@pytest.mark.parametrize(("held_against", "promoted"), [(4, True), (3, False), (0, False)])
async def test_a_version_that_was_held_against_another_route_is_not_promoted(
    make: Make,
    jobs: JobStore,
    object_store: ObstoreStore,
    monkeypatch: pytest.MonkeyPatch,
    held_against: int,
    promoted: bool,
) -> None:
    theirs = await routed(object_store, 4)
    judged(monkeypatch, BETTER.model_copy(update={"route_generation": held_against}))
    found = await published(make, jobs, object_store)
    assert found.promoted is promoted
    assert found.promotion_refusal == ("" if promoted else "ROUTE_CONFLICT")
    head = await AdapterRegistry(object_store).head(found.spec.adapter_name)
    assert (head == theirs) is not promoted


async def test_a_manual_job_stays_where_it_is_however_good(
    make: Make, jobs: JobStore, object_store: ObstoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged(monkeypatch, BETTER)
    job = await jobs.create(make_job(policy=PromotionPolicy.MANUAL), "", "a" * 64)
    async with running(make(ScriptedExecutor(object_store))):
        found = await ended(jobs, job.name)
    assert (found.promoted, found.promotion_refusal) == (False, "")
