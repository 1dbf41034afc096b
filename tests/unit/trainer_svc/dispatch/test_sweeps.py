"""Sweeps on their way through the dispatcher: room, losses, one version."""

from __future__ import annotations

import asyncio

import pytest

from tailorbird.object_store import ObstoreStore
from tests.unit.trainer_svc.dispatch.test_placement import place, placement
from tests.unit.trainer_svc.dispatching import Make, ended, running
from tests.unit.trainer_svc.fakes import ScriptedExecutor, ScriptedWorker, published
from tests.unit.trainer_svc.values import make_job, make_sweep
from trainer_svc.dispatch.placement import slots_of
from trainer_svc.jobs.model import JobState
from trainer_svc.jobs.store import JobStore
from trainer_svc.jobs.sweep import HALVED, RungDecided, TrialReached
from trainer_svc.protocol import OUT_OF_MEMORY, LeaseKey, Start

DIGEST = "a" * 64


@pytest.mark.parametrize(
    ("limit", "there", "sweep", "slots"),
    [
        (8, 0, make_sweep(trials=16), 4),
        (8, 6, make_sweep(trials=16), 2),
        (8, 7, make_sweep(trials=16), 1),
        (8, 0, make_sweep(trials=2), 2),
        (1, 0, make_sweep(trials=16), 1),
        (8, 0, make_sweep("alone", trials=16), 8),
        (8, 0, make_sweep("alone-suspected", trials=16), 1),
        (8, 0, make_job(), 1),
    ],
)
def test_a_sweep_takes_what_room_there_is_up_to_half_a_worker(
    limit: int, there: int, sweep: object, slots: int
) -> None:
    others = place(*(f"job-{number}" for number in range(there)))
    rules = placement(limit)._rules
    assert slots_of(sweep, others, rules) == slots  # type: ignore[arg-type]


def test_a_place_counts_the_adapters_and_gets_room_back() -> None:
    worker = place("job")
    lease = LeaseKey(job="sweep", epoch=1)
    worker.take(lease, alone=False, slots=4)
    assert worker.count == 5
    worker.shrink(lease, 2)
    assert worker.count == 3
    worker.shrink(lease, 4)
    assert worker.count == 3
    worker.leave(lease)
    assert worker.count == 1


async def test_a_sweep_publishes_the_best_trial_once(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    sweep = await jobs.create(make_sweep(), "", DIGEST)
    executor = ScriptedExecutor(object_store)
    async with running(make(executor, jobs_per_worker=8)):
        found = await ended(jobs, sweep.name)
    assert found.state is JobState.SUCCEEDED
    assert found.promoted
    assert await published(object_store) == [f"{found.version}/manifest.json"]
    assert found.sweep is not None
    assert found.sweep.active == [0]
    assert [trial.stop_reason for trial in found.sweep.trials] == ["", HALVED, HALVED, HALVED]
    assigned = executor.started[0].assignment
    assert assigned.sweep is not None
    assert assigned.sweep.at_once == 4
    assert assigned.hold_out


async def test_a_sweep_leaves_room_for_others_and_gives_it_back(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    worker = ScriptedWorker(object_store, hold="decided-0", only="sweep")
    sweep = await jobs.create(make_sweep(trials=16), "", DIGEST)
    dispatcher = make(ScriptedExecutor(object_store, worker), jobs_per_worker=4)
    async with running(dispatcher):
        await worker.held.wait()
        assert worker.assignment.sweep is not None
        assert worker.assignment.sweep.at_once == 2
        other = await jobs.create(make_job("other"), "", DIGEST)
        dispatcher.wake()
        assert (await ended(jobs, other.name)).state is JobState.SUCCEEDED
        worker.go_on()
        await ended(jobs, sweep.name)


async def test_room_that_the_halving_frees_is_taken_at_once(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    """Beside two trials two jobs fit into a worker for four; a third when one trial is left."""
    worker = ScriptedWorker(object_store, hold="step-2")
    for name in ("one", "two", "three"):
        await jobs.create(make_job(name), "", DIGEST)
    sweep = make_sweep(trials=2)
    older = sweep.model_copy(update={"create_time": sweep.create_time.replace(year=2020)})
    await jobs.create(older, "", DIGEST)
    async with running(make(ScriptedExecutor(object_store, worker), jobs_per_worker=4)):
        async with asyncio.timeout(20):
            while len(worker.jobs) < 4:
                await worker.held.wait()
                worker.held.clear()
        assert worker.jobs == ["sweep", "one", "two", "three"]
        worker.go_on()
        for name in ("one", "two", "three"):
            await ended(jobs, make_job(name).name)
        await ended(jobs, sweep.name)


async def test_a_sweep_that_had_no_memory_takes_its_trials_one_after_the_other(
    make: Make, jobs: JobStore, object_store: ObstoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer_svc.dispatch.backoff._SECONDS", (0.001,))
    worker = ScriptedWorker(object_store, hold="decided-0")
    sweep = await jobs.create(make_sweep(), "", DIGEST)
    async with running(make(ScriptedExecutor(object_store, worker), jobs_per_worker=8)):
        await worker.held.wait()
        worker.fail(retryable=True, reason=OUT_OF_MEMORY)
        worker.go_on()
        assert (await ended(jobs, sweep.name)).state is JobState.SUCCEEDED
    starts = [each for each in worker.commands if isinstance(each, Start)]
    asked = [each.assignment.sweep.at_once for each in starts if each.assignment.sweep]
    assert asked == [4, 1]


@pytest.mark.parametrize(
    "death", ["reached-0-2", "decided-0", "reached-1-1", "decided-2", "upload"]
)
async def test_a_sweep_whose_worker_dies_goes_on_with_what_is_known(
    make: Make, jobs: JobStore, object_store: ObstoreStore, death: str
) -> None:
    sweep = await jobs.create(make_sweep(), "", DIGEST)
    dying, next_ = ScriptedWorker(object_store, death=death), ScriptedWorker(object_store)
    async with running(make(ScriptedExecutor(object_store, dying, next_), jobs_per_worker=8)):
        found = await ended(jobs, sweep.name)
    assert found.state is JobState.SUCCEEDED
    assert await published(object_store) == [f"{found.version}/manifest.json"]
    assert found.sweep is not None
    assert found.sweep.active == [0]
    told = [event.payload for event in await jobs.events(sweep.name, 0, 1000)]
    reached = [(each.rung, each.trial) for each in told if isinstance(each, TrialReached)]
    assert len(reached) == len(set(reached)) == 4 + 2 + 1
    assert [each.rung for each in told if isinstance(each, RungDecided)] == [0, 1, 2]
    starts = [each for each in next_.commands if isinstance(each, Start)]
    assert starts[-1].assignment.sweep is not None
    assert starts[-1].assignment.sweep.results != make_sweep().sweep
