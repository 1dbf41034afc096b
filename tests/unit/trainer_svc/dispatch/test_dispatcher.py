"""Jobs on their way through the dispatcher."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from tailorbird.manifest import MANIFEST
from tailorbird.object_store import ObstoreStore
from tailorbird.registry import AdapterRegistry
from tailorbird.routes import Route, RoutedVersion
from tests.unit.trainer_svc.dispatching import Make, ended, running, states
from tests.unit.trainer_svc.fakes import ScriptedExecutor, ScriptedWorker, published, step
from tests.unit.trainer_svc.values import make_job, make_manifest
from trainer_svc.jobs.events import JobWarning, Resumed
from trainer_svc.jobs.model import JobState, PromotionPolicy
from trainer_svc.jobs.store import JobStore
from trainer_svc.protocol import Cancel, Evaluating, Reported, Start, Suspend, Trained


async def test_a_job_becomes_a_routed_version(
    make: Make, jobs: JobStore, object_store: ObstoreStore, registry: CollectorRegistry
) -> None:
    job = await jobs.create(make_job(), "", "a" * 64)
    executor = ScriptedExecutor(object_store)
    async with running(make(executor)):
        found = await ended(jobs, job.name)
    assert found.state is JobState.SUCCEEDED
    assert found.promoted
    assert await published(object_store) == [f"{found.version}/manifest.json"]
    assert await states(jobs, job.name) == [
        "QUEUED", "PREPARING", "RUNNING", "EVALUATING", "PUBLISHING", "SUCCEEDED",
    ]  # fmt: skip
    head = await AdapterRegistry(object_store).head(job.spec.adapter_name)
    assert head is not None
    assert (head.generation, head.actor) == (1, str(job.name))
    assert found.version.endswith(head.version)
    assert registry.get_sample_value("tailorbird_trainer_steps_total") == 4
    assert registry.get_sample_value("tailorbird_trainer_tokens_total") == 40
    assert executor.started[0].closed.is_set()


async def test_a_worker_is_told_what_the_job_was_warned_of_at_its_creation(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    warnings = [JobWarning(reason=reason, message="m") for reason in ("LEAK", "COPIES")]
    job = await jobs.create(make_job(), "", "a" * 64, warnings)
    worker = ScriptedWorker(object_store, hold="step-1")
    async with running(make(ScriptedExecutor(object_store, worker))):
        await worker.held.wait()
        assert worker.assignment.data_warnings == tuple(warnings)
        worker.go_on()
        await ended(jobs, job.name)


async def test_what_was_done_under_an_earlier_lease_is_not_counted_again(
    make: Make, jobs: JobStore, object_store: ObstoreStore, registry: CollectorRegistry
) -> None:
    job = await jobs.create(make_job(), "", "a" * 64)
    worker = ScriptedWorker(object_store, hold="step-1")
    async with running(make(ScriptedExecutor(object_store, worker))):
        await worker.held.wait()
        lease = worker.assignment.lease
        went_on = Resumed(resumed_from_step=100, lease_epoch=2)
        worker._rest[lease] = iter(
            [
                *(("", Reported(lease=lease, event=each)) for each in (went_on, step(101))),
                ("", Reported(lease=lease, event=step(103))),
                ("", Evaluating(lease=lease)),
                ("", Trained(lease=lease)),
            ]
        )
        worker.go_on()
        await ended(jobs, job.name)
    assert registry.get_sample_value("tailorbird_trainer_steps_total") == 3
    # Of the first report nobody knows how many were read before.
    assert registry.get_sample_value("tailorbird_trainer_tokens_total") == 20


async def test_manual_policy_leaves_the_route(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    job = await jobs.create(make_job(policy=PromotionPolicy.MANUAL), "", "a" * 64)
    async with running(make(ScriptedExecutor(object_store))):
        found = await ended(jobs, job.name)
    assert (found.state, found.promoted) == (JobState.SUCCEEDED, False)
    assert await AdapterRegistry(object_store).head(job.spec.adapter_name) is None
    assert len(await published(object_store)) == 1


async def test_a_route_that_somebody_else_moved_is_left_alone(
    make: Make, jobs: JobStore, object_store: ObstoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await jobs.create(make_job(), "", "a" * 64)
    worker = ScriptedWorker(object_store)
    dispatcher = make(ScriptedExecutor(object_store, worker))
    registry = AdapterRegistry(object_store)
    theirs = Route(
        generation=1,
        versions=(RoutedVersion(version="20250101T000000-x-1"),),
        reason="promote",
        actor="somebody",
        create_time=job.create_time,
        nonce="theirs",
    )
    original = jobs.commit

    async def commit_then_lose(*args: object) -> None:
        await original(*args)  # type: ignore[arg-type]
        await registry.append_route(job.spec.adapter_name, theirs)

    monkeypatch.setattr(jobs, "commit", commit_then_lose)
    async with running(dispatcher):
        found = await ended(jobs, job.name)
    assert found.state is JobState.SUCCEEDED
    assert (found.promoted, found.promotion_refusal) == (False, "ROUTE_CONFLICT")
    assert await registry.head(job.spec.adapter_name) == theirs


@pytest.mark.parametrize(("theirs", "moved"), [("0" * 64, True), ("b" * 64, False), ("", True)])
async def test_traffic_of_another_base_is_not_moved(
    make: Make, jobs: JobStore, object_store: ObstoreStore, theirs: str, moved: bool
) -> None:
    job = await jobs.create(make_job(), "", "a" * 64)
    registry, adapter = AdapterRegistry(object_store), job.spec.adapter_name
    before = [adapter.version(f"2025010{number}T000000-x-1") for number in (1, 2)]
    await object_store.put(f"{before[0]}/{MANIFEST}", b"{")
    if theirs:
        manifest = make_manifest(str(before[1]))
        changes = {"base_model_digest": f"sha256:{theirs}"}
        await registry.publish(before[1], manifest.model_copy(update=changes))
    route = Route(
        generation=1,
        versions=tuple(RoutedVersion(version=name.version, weight=50) for name in before),
        reason="promote",
        actor="somebody",
        create_time=job.create_time,
        nonce="theirs",
    )
    await registry.append_route(adapter, route)
    async with running(make(ScriptedExecutor(object_store))):
        found = await ended(jobs, job.name)
    assert found.state is JobState.SUCCEEDED
    assert (found.promoted, found.promotion_refusal) == (moved, "" if moved else "BASE_CHANGED")
    assert (await registry.head(adapter) == route) is not moved


async def test_two_workers_train_at_the_same_time(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    pair = [ScriptedWorker(object_store, hold="step-2") for _ in range(2)]
    dispatcher = make(ScriptedExecutor(object_store, *pair), workers=2)
    async with running(dispatcher):
        made = [await jobs.create(make_job(f"job-{i}"), "", f"{i}" * 64) for i in range(2)]
        dispatcher.wake()
        async with asyncio.timeout(20):
            await asyncio.gather(*(worker.held.wait() for worker in pair))
        for worker in pair:
            worker.fail()
        for job in made:
            assert (await ended(jobs, job.name)).state is JobState.FAILED


async def test_a_job_created_while_workers_are_idle_is_taken(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    dispatcher = make(ScriptedExecutor(object_store), workers=2)
    async with running(dispatcher):
        for number in range(4):
            job = await jobs.create(make_job(f"job-{number}"), "", f"{number}" * 64)
            dispatcher.wake()
            assert (await ended(jobs, job.name)).state is JobState.SUCCEEDED


async def test_a_running_job_is_cancelled(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    worker = ScriptedWorker(object_store, hold="step-2")
    dispatcher = make(ScriptedExecutor(object_store, worker))
    job = await jobs.create(make_job(), "", "a" * 64)
    async with running(dispatcher):
        await worker.held.wait()
        await jobs.request_cancel(job.name)
        await dispatcher.cancel(job.name)
        assert (await ended(jobs, job.name)).state is JobState.CANCELLED
        other = await jobs.create(make_job("two"), "", "b" * 64)
        worker.hold = ""
        dispatcher.wake()
        assert (await ended(jobs, other.name)).state is JobState.SUCCEEDED
    assert len(await published(object_store)) == 1


async def test_a_cancel_before_the_commit_leaves_no_version(
    make: Make, jobs: JobStore, object_store: ObstoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await jobs.create(make_job(), "", "a" * 64)
    original = jobs.commit

    async def cancelled_first(*args: object) -> None:
        await jobs.request_cancel(job.name)
        await original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(jobs, "commit", cancelled_first)
    async with running(make(ScriptedExecutor(object_store))):
        assert (await ended(jobs, job.name)).state is JobState.CANCELLED
    left = [i.key async for i in object_store.objects(job.spec.adapter)]
    assert left == []


async def test_a_stop_suspends_jobs_and_the_next_start_takes_them_up(
    make: Make, jobs: JobStore, object_store: ObstoreStore, registry: CollectorRegistry
) -> None:
    worker = ScriptedWorker(object_store, hold="step-2")
    job = await jobs.create(make_job(), "", "a" * 64)
    async with running(make(ScriptedExecutor(object_store, worker))):
        await worker.held.wait()
    assert any(isinstance(command, Suspend) for command in worker.commands)
    assert (await jobs.get(job.name)).state is JobState.QUEUED


async def test_the_worker_gets_what_the_job_asked_for(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    job = await jobs.create(make_job(), "", "a" * 64)
    executor = ScriptedExecutor(object_store)
    async with running(make(executor)):
        first = await ended(jobs, job.name)
    assignment = executor.started[0].assignment
    assert assignment.spec_sha256 == job.spec.sha256()
    assert assignment.training.format == "prompt_completion"
    assert await object_store.get(assignment.training.key)
    assert assignment.parent_version == ""

    again = await jobs.create(make_job("two"), "", "b" * 64)
    dispatcher = make(executor)
    async with running(dispatcher):
        await ended(jobs, again.name)
    assert executor.started[1].assignment.parent_version == first.version
    assert executor.started[1].assignment.from_version == ""
    assert not any(isinstance(c, Cancel) for c in executor.started[0].commands)
    assert sum(isinstance(c, Start) for c in executor.started[0].commands) == 1
