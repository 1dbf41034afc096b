"""Sweeps on their way through the dispatcher: room, losses, one version."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from tailorbird.manifest import MANIFEST
from tailorbird.object_store import ObstoreStore
from tests.unit.trainer_svc.dispatch.test_faults import DOWN, build, check_history, others
from tests.unit.trainer_svc.dispatch.test_placement import place, placement
from tests.unit.trainer_svc.dispatching import Make, ended, running
from tests.unit.trainer_svc.fakes import ScriptedExecutor, ScriptedWorker, published
from tests.unit.trainer_svc.faults import Fault
from tests.unit.trainer_svc.values import make_job, make_sweep
from trainer_svc.checkpoints import trial_prefix
from trainer_svc.datasets.store import DatasetStore
from trainer_svc.dispatch.placement import slots_of
from trainer_svc.jobs.model import JobState
from trainer_svc.jobs.store import JobStore
from trainer_svc.jobs.sweep import HALVED, RungDecided, SweepResults, TrialReached
from trainer_svc.protocol import OUT_OF_MEMORY, Cancel, LeaseKey, Reported, Start

__all__ = ["others"]

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


async def test_trials_are_counted_while_a_worker_has_them_and_as_they_stop(
    make: Make, jobs: JobStore, object_store: ObstoreStore, registry: CollectorRegistry
) -> None:
    def stopped(reason: str) -> float | None:
        name = "tailorbird_trainer_sweep_trials_stopped_total"
        return registry.get_sample_value(name, {"reason": reason})

    def active() -> float | None:
        return registry.get_sample_value("tailorbird_trainer_sweep_trials")

    async def until(known: Callable[[SweepResults], bool]) -> None:
        async with asyncio.timeout(20):
            with jobs._feed.subscribe(sweep.name) as changed:
                while not known((await jobs.get(sweep.name)).sweep or SweepResults(trials=())):
                    await changed.wait()
                    changed.clear()

    dying = ScriptedWorker(object_store, hold="reached-0-3")
    again = ScriptedWorker(object_store, hold="reached-1-1")
    sweep = await jobs.create(make_sweep(), "", DIGEST)
    failed = TrialReached(
        trial=3, rung=0, step=1, total_steps=8, learning_rate=1.0, epochs=1,
        reason="NON_FINITE", message="no number",
    )  # fmt: skip
    async with running(make(ScriptedExecutor(object_store, dying, again), jobs_per_worker=8)):
        await dying.held.wait()
        assert active() == 4
        dying.say(Reported(lease=dying.assignment.lease, event=failed))
        dying.die()
        await again.held.wait()
        await until(lambda known: known.decided == 1 and len(known.trials[0].rungs) == 2)
        assert (active(), stopped(HALVED), stopped("NON_FINITE")) == (2, 1, 1)
        again.go_on()
        assert (await ended(jobs, sweep.name)).state is JobState.SUCCEEDED
    assert (active(), stopped(HALVED), stopped("NON_FINITE")) == (0, 2, 1)


async def test_a_sweep_that_had_no_memory_takes_its_trials_one_after_the_other(
    make: Make, jobs: JobStore, object_store: ObstoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer_svc.dispatch.backoff._SECONDS", (0.001,))
    monkeypatch.setattr("trainer_svc.dispatch.losses._SECONDS", (0.001,))
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


SWEEP_CALLS = [
    # The first event is Prepared, then the trials come to a rung one by one, then it is decided.
    *(("jobs", "record", number) for number in (2, 5, 6, 8, 10)),
    *(("worker", "receive", number) for number in (2, 6, 7)),
]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("where", "method", "number"), SWEEP_CALLS)
async def test_a_call_that_fails_once_costs_no_trial_and_no_decision(
    jobs: JobStore,
    datasets: DatasetStore,
    object_store: ObstoreStore,
    others: None,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    method: str,
    number: int,
    after: bool,
) -> None:
    """While another tenant's job shares the worker, and hears of nothing."""
    monkeypatch.setattr("trainer_svc.dispatch.backoff._SECONDS", (0.001,))
    monkeypatch.setattr("trainer_svc.dispatch.losses._SECONDS", (0.001,))
    fault = Fault(method, number, DOWN[where]("as the test wants"), after=after)
    worker = ScriptedWorker(object_store, hold="step-2", only="two")
    if where == "worker":
        fault.struck_too = worker.die
    dispatcher = build(fault, where, jobs, datasets, object_store, worker)
    sweep = await jobs.create(make_sweep(), "", DIGEST)
    other = await jobs.create(make_job("two", tenant="other"), "", "b" * 64)
    async with running(dispatcher):
        found = await ended(jobs, sweep.name)
        worker.go_on()
        beside = await ended(jobs, other.name)
    assert fault.struck
    assert (found.state, beside.state) == (JobState.SUCCEEDED, JobState.SUCCEEDED)
    told = [event.payload for event in await jobs.events(sweep.name, 0, 1000)]
    reached = [(each.rung, each.trial) for each in told if isinstance(each, TrialReached)]
    assert len(reached) == len(set(reached)) == 4 + 2 + 1
    assert [each.rung for each in told if isinstance(each, RungDecided)] == [0, 1, 2]
    await check_history(jobs, beside, whole=beside.lease_epoch == 1)
    assert f"{found.version}/manifest.json" in await published(object_store)


@pytest.mark.parametrize("ending", ["cancelled", "published"])
async def test_nothing_of_a_trial_is_left_when_its_sweep_has_ended(
    make: Make, jobs: JobStore, object_store: ObstoreStore, ending: str
) -> None:
    worker = ScriptedWorker(object_store, hold="decided-1")
    sweep = await jobs.create(make_sweep(), "", DIGEST)
    for trial in (0, 3):
        key = f"{trial_prefix(sweep.name, trial)}/00000002"
        await object_store.create(f"{key}/manifest.json", b"{}")
        await object_store.create(f"{key}/adapter-00.safetensors", b"")
    dispatcher = make(ScriptedExecutor(object_store, worker), jobs_per_worker=8)
    async with running(dispatcher):
        if ending == "cancelled":
            await worker.held.wait()
            await jobs.request_cancel(sweep.name)
            await dispatcher.cancel(sweep.name)
        worker.go_on()
        await ended(jobs, sweep.name)
    assert not [each.key async for each in object_store.objects(str(sweep.name))]


async def test_what_a_worker_says_of_a_lease_that_another_took_decides_nothing(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    worker = ScriptedWorker(object_store, hold="reached-0-3", only="sweep")
    sweep = await jobs.create(make_sweep(), "", DIGEST)
    async with running(make(ScriptedExecutor(object_store, worker), jobs_per_worker=8)):
        await worker.held.wait()
        await ended(jobs, sweep.name, JobState.RUNNING)
        await jobs.take_back("")
        taken = await jobs.claim("another trainer")
        assert taken is not None
        before = await jobs.get(sweep.name)
        history = await jobs.events(sweep.name, 0, 100)
        worker.go_on()
        beside = await jobs.create(make_job("beside"), "", "b" * 64)
        assert (await ended(jobs, beside.name)).state is JobState.SUCCEEDED
    assert await jobs.get(sweep.name) == before
    assert await jobs.events(sweep.name, 0, 100) == history
    assert await published(object_store) == [f"{(await jobs.get(beside.name)).version}/{MANIFEST}"]
    assert worker.told(Cancel) == ["sweep"]
