"""Jobs of several bases on the dispatcher's way: whose worker ends, who waits, who is hurt."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import CapturingLogger

from tailorbird.errors import FailedPrecondition, LeaseLost
from tailorbird.names import JobName
from tailorbird.object_store import ObstoreStore
from tests.unit.trainer_svc.dispatching import Make, ended, running, states
from tests.unit.trainer_svc.fakes import ScriptedExecutor, ScriptedWorker
from tests.unit.trainer_svc.values import make_job
from trainer_svc.dispatch.dispatcher import Dispatcher
from trainer_svc.dispatch.executor import Worker, WorkerLost
from trainer_svc.jobs.database import DatabaseUnavailable
from trainer_svc.jobs.model import Job, JobError, JobState
from trainer_svc.jobs.rows import readable
from trainer_svc.jobs.store import JobStore

TWO = ("a", "b")


async def add(jobs: JobStore, *wanted: tuple[str, str]) -> list[JobName]:
    """Queue jobs given as id and base, the oldest first."""
    made = []
    for job, base in wanted:
        made.append((await jobs.create(make_job(job, base=base), "", f"{job:>064}")).name)
    return made


async def all_succeed(jobs: JobStore, names: list[JobName]) -> None:
    for name in names:
        assert (await ended(jobs, name)).state is JobState.SUCCEEDED


async def not_fresh(dispatcher: Dispatcher) -> None:
    """Wait until a worker is ready, and none may take jobs out of their turn any more."""

    def settled() -> bool:
        places = dispatcher._workers.stock().places
        return bool(places) and not any(place.fresh for place in places)

    async with asyncio.timeout(20):
        while not settled():  # noqa: ASYNC110 - it is no event
            await asyncio.sleep(0.001)


class HeldExecutor(ScriptedExecutor):
    """Starts with one base wait until the test lets them go on; says how many workers live."""

    def __init__(self, store: ObstoreStore, held: str = "", *workers: Any) -> None:
        super().__init__(store, *workers)
        self.held = held
        self.waits = asyncio.Event()
        self.let_go = asyncio.Event()
        self.most: list[int] = []
        self.cancelled = False

    async def start(self, index: int, base: str) -> Worker:
        alive = sum(not worker.closed.is_set() for worker in self.started)
        self.most.append(alive + 1)
        if base == f"sha256:{self.held}":
            self.waits.set()
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                self.cancelled = True
                raise
        return await super().start(index, base)


class FailingBase(ScriptedExecutor):
    """No worker gets ready with one base."""

    def __init__(self, store: ObstoreStore, base: str, error: Exception) -> None:
        super().__init__(store)
        self.base = base
        self.error: Exception | None = error

    async def start(self, index: int, base: str) -> Worker:
        if base == f"sha256:{self.base}" and self.error is not None:
            self.bases.append(self.base)
            raise self.error
        return await super().start(index, base)


async def test_an_idle_worker_gives_way_to_one_with_the_base_of_a_job(
    make: Make, jobs: JobStore, object_store: ObstoreStore, registry: CollectorRegistry
) -> None:
    executor = HeldExecutor(object_store)
    dispatcher = make(executor, 1, 1, *TWO)

    def ready(base: str) -> float | None:
        name = "tailorbird_trainer_workers_ready"
        return registry.get_sample_value(name, {"base_model": base})

    async with running(dispatcher):
        for number, base in enumerate("abab"):
            (name,) = await add(jobs, (f"job-{number}", base))
            dispatcher.wake()
            await all_succeed(jobs, [name])
            assert (ready("a"), ready("b")) == ((1, 0) if base == "a" else (0, 1))
    assert executor.bases == ["a", "b", "a", "b"]
    assert [worker.jobs for worker in executor.started] == [[f"job-{i}"] for i in range(4)]
    assert executor.most == [1, 1, 1, 1]
    assert (ready("a"), ready("b")) == (0, 0)


async def test_two_workers_hold_two_bases_at_the_same_time(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    pair = [ScriptedWorker(object_store, hold="step-2") for _ in range(2)]
    executor = ScriptedExecutor(object_store, *pair)
    names = await add(jobs, ("one", "a"), ("two", "b"))
    async with running(make(executor, 2, 1, *TWO)):
        async with asyncio.timeout(20):
            await asyncio.gather(*(worker.held.wait() for worker in pair))
        # The second slot took the queue's base at once: none was loaded in vain.
        assert executor.bases == ["a", "b"]
        for worker in pair:
            worker.go_on()
        await all_succeed(jobs, names)


async def test_free_slots_hold_the_default_base(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    executor = ScriptedExecutor(object_store)
    async with running(make(executor, 3, 1, *TWO, base_memory=16)):
        async with asyncio.timeout(20):
            while len(executor.started) < 2:  # noqa: ASYNC110 - starts are no events
                await asyncio.sleep(0)
        (name,) = await add(jobs, ("one", "a"))
        await all_succeed(jobs, [name])
    assert executor.bases == ["a", "a"]


async def test_younger_jobs_do_not_keep_a_base_from_its_turn(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    worker = ScriptedWorker(object_store, hold="step-2", only="first")
    executor = ScriptedExecutor(object_store, worker)
    dispatcher = make(executor, 1, 2, *TWO)
    (first,) = await add(jobs, ("first", "a"))
    async with running(dispatcher):
        await worker.held.wait()
        await not_fresh(dispatcher)
        (other,) = await add(jobs, ("other", "b"))
        dispatcher.wake()
        later = await add(jobs, ("later", "a"), ("last", "a"))
        dispatcher.wake()
        worker.go_on()
        await all_succeed(jobs, [first, other, *later])
    assert executor.bases == ["a", "b", "a"]
    trained = [sorted(each.jobs) for each in executor.started]
    assert trained == [["first"], ["other"], ["last", "later"]]


async def test_a_base_is_loaded_once_for_all_that_wait_for_it(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    worker = ScriptedWorker(object_store, hold="step-2")
    executor = ScriptedExecutor(object_store, worker)
    names = await add(jobs, ("a-1", "a"))
    async with running(make(executor, 1, 4, *TWO)):
        await worker.held.wait()
        for number in (2, 3, 4):
            names += await add(jobs, (f"b-{number}", "b"), (f"a-{number}", "a"))
        worker.go_on()
        await all_succeed(jobs, names)
    assert executor.bases in (["a", "b", "a"], ["a", "b"])
    assert sorted(executor.started[1].jobs) == ["b-2", "b-3", "b-4"]


async def test_the_budget_is_kept_and_all_that_must_go_goes(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    executor = HeldExecutor(object_store)
    dispatcher = make(executor, 2, 1, "a", "big", base_memory=16, big=16)
    async with running(dispatcher):
        for number, base in enumerate(["a", "big", "a"]):
            (name,) = await add(jobs, (f"job-{number}", base))
            dispatcher.wake()
            await all_succeed(jobs, [name])
    big = executor.bases.index("big")
    # Beside the big one none has room; before and after it both slots have the small one.
    assert set(executor.bases[:big]) == {"a"}
    assert executor.most[big] == 1
    assert executor.most[big + 1] == 1


async def test_a_base_that_cannot_be_loaded_costs_other_jobs_nothing(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    error = FailedPrecondition("it rescales its logits", reason="BASE_UNSUPPORTED")
    executor = FailingBase(object_store, "b", error)
    dispatcher = make(executor, 1, 1, *TWO)
    broken = await add(jobs, ("one", "b"), ("two", "b"))
    fine = await add(jobs, ("three", "a"))
    async with running(dispatcher):
        await all_succeed(jobs, fine)
        for name in broken:
            found = await ended(jobs, name, JobState.PAUSED)
            assert found.state is JobState.PAUSED
            assert found.error is not None
            assert found.error.reason == "BASE_UNSUPPORTED"
            assert "'b' cannot be loaded: it rescales its logits" in found.error.message
            assert await states(jobs, name) == ["QUEUED", "PREPARING", "PAUSED"]
        # One try for both of them.
        assert executor.bases.count("b") == 1

        # What has been mended is tried when a job asks for it again and its pause is over.
        executor.error = None
        dispatcher._workers._pauses.forget("sha256:b")
        await jobs.request_resume(broken[0])
        dispatcher.wake()
        await all_succeed(jobs, [broken[0]])
        # And what has been loaded once may fail again before anybody is told to wait.
        assert dispatcher._workers.refused(await jobs.get(broken[1])) is None


@pytest.mark.parametrize(
    "error",
    [
        WorkerLost("killed at /srv/models by 4711"),
        FailedPrecondition("OSError: /srv/models/b: EIO, 4711", reason="BASE_UNUSABLE"),
    ],
)
async def test_a_base_that_may_yet_be_loaded_is_given_up_after_some_tries(
    make: Make,
    jobs: JobStore,
    object_store: ObstoreStore,
    monkeypatch: pytest.MonkeyPatch,
    error: WorkerLost | FailedPrecondition,
) -> None:
    monkeypatch.setattr("trainer_svc.dispatch.backoff._SECONDS", (0.001,) * 7 + (30,))
    executor = FailingBase(object_store, "b", error)
    dispatcher = make(executor, 1, 1, *TWO)
    (broken,) = await add(jobs, ("one", "b"))
    # Of its own, for another test may have had this one write elsewhere for good.
    log = CapturingLogger()
    monkeypatch.setattr("trainer_svc.dispatch.workers._log", log)
    async with running(dispatcher):
        found = await ended(jobs, broken, JobState.PAUSED)
        assert executor.bases.count("b") == 3
        (fine,) = await add(jobs, ("two", "a"))
        dispatcher.wake()
        await all_succeed(jobs, [fine])
    assert found.error is not None
    assert found.error.reason == "WORKER_CANNOT_START"
    # What another library said is for those who run the trainer.
    assert found.error.message == (
        "the base 'b' cannot be loaded: 3 workers in a row ended before they were ready; the "
        "trainer's log says why"
    )
    (given_up,) = [call for call in log.calls if call.args == ("base given up",)]
    assert error.message in given_up.kwargs["error"]


async def test_a_base_that_was_given_up_closes_no_busy_worker(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    worker = ScriptedWorker(object_store, hold="step-2", only="first")
    executor = ScriptedExecutor(object_store, worker)
    dispatcher = make(executor, 1, 2, *TWO)
    (first,) = await add(jobs, ("first", "a"))
    async with running(dispatcher):
        await worker.held.wait()
        await not_fresh(dispatcher)
        cannot = JobError(reason="BASE_UNSUPPORTED", message="no")
        dispatcher._workers._refusals["sha256:b"] = cannot
        again, later = await add(jobs, ("again", "b"), ("later", "a"))
        dispatcher.wake()
        # The one that would hold it open still goes on.
        await all_succeed(jobs, [later])
        worker.go_on()
        # Once nobody asks for the worker any more, the base is tried again.
        await all_succeed(jobs, [first, again])
    assert executor.bases == ["a", "b"]


async def test_jobs_of_a_full_base_are_not_read_to_find_one_of_another(
    make: Make, jobs: JobStore, object_store: ObstoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def noted(row: Any) -> Job | None:
        read.append(row.job)
        return readable(row)

    default, worker = ScriptedWorker(object_store), ScriptedWorker(object_store, hold="step-2")
    executor = ScriptedExecutor(object_store, default, worker)
    dispatcher = make(executor, 2, 1, *TWO, base_memory=16)
    (first,) = await add(jobs, ("first", "b"))
    async with running(dispatcher):
        async with asyncio.timeout(20):
            await worker.held.wait()
        backlog = await add(jobs, *((f"b-{number}", "b") for number in range(6)))
        (last,) = await add(jobs, ("last", "a"))
        monkeypatch.setattr("trainer_svc.jobs.queue.readable", noted)
        dispatcher.wake()
        await all_succeed(jobs, [last])
        assert set(read) == {"b-0", "last"}
        worker.go_on()
        await all_succeed(jobs, [first, *backlog])


async def test_a_base_that_could_be_loaded_before_is_tried_more_than_once(
    make: Make, jobs: JobStore, object_store: ObstoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer_svc.dispatch.backoff._SECONDS", (0.001,) * 7 + (30,))
    unusable = FailedPrecondition("the base is being moved", reason="BASE_UNUSABLE")
    executor = FailingBase(object_store, "b", unusable)
    executor.error = None
    dispatcher = make(executor, 1, 1, *TWO)
    async with running(dispatcher):
        for wanted in (("one", "b"), ("two", "a")):
            names = await add(jobs, wanted)
            dispatcher.wake()
            await all_succeed(jobs, names)
        executor.error = unusable
        (broken,) = await add(jobs, ("three", "b"))
        dispatcher.wake()
        found = await ended(jobs, broken, JobState.PAUSED)
    assert found.error is not None
    assert found.error.reason == "WORKER_CANNOT_START"
    assert executor.bases.count("b") == 4


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FailedPrecondition("no tokenizer", reason="BASE_UNUSABLE"), "BASE_UNUSABLE"),
        (WorkerLost("killed"), "WORKER_CANNOT_START"),
    ],
)
async def test_a_trainer_whose_default_base_cannot_be_loaded_ends(
    make: Make, jobs: JobStore, object_store: ObstoreStore, error: Exception, reason: str
) -> None:
    dispatcher = make(FailingBase(object_store, "a", error), 1, 1, *TWO)
    with pytest.raises(FailedPrecondition) as caught:
        await asyncio.wait_for(dispatcher.run(), 20)
    assert caught.value.reason == reason


async def test_a_job_whose_base_the_trainer_has_no_more_waits_for_its_callers(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    gone, changed = make_job("gone", base="c"), make_job("changed", base="b")
    spec = changed.spec.model_copy(update={"base_model_digest": "sha256:before"})
    for job in (gone, changed.model_copy(update={"spec": spec})):
        await jobs.create(job, "", f"{job.name.job:>064}")
    old = make_job("old", base="b")
    spec = old.spec.model_copy(update={"base_model_digest": ""})
    await jobs.create(old.model_copy(update={"spec": spec}), "", "c" * 64)
    executor = ScriptedExecutor(object_store)
    async with running(make(executor, 1, 1, *TWO)):
        for refused in (gone, changed):
            found = await ended(jobs, refused.name, JobState.PAUSED)
            assert found.error is not None
            assert found.error.reason == "BASE_NOT_HELD"
            assert "this trainer has 'a', 'b'" in found.error.message
        # A job of a release that kept no digest goes by the name.
        await all_succeed(jobs, [old.name])
    assert [worker.jobs for worker in executor.started if worker.jobs] == [["old"]]


async def test_a_base_that_some_worker_holds_is_not_given_up(
    make: Make, jobs: JobStore, object_store: ObstoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer_svc.dispatch.backoff._SECONDS", (0.001,) * 7 + (30,))
    executor = FailingBase(object_store, "b", WorkerLost("no memory for two"))
    error, executor.error = executor.error, None
    default, worker = ScriptedWorker(object_store), ScriptedWorker(object_store, hold="step-2")
    executor.waiting = [default, worker]
    dispatcher = make(executor, 2, 1, *TWO)
    (first,) = await add(jobs, ("first", "b"))
    async with running(dispatcher):
        await worker.held.wait()
        executor.error = error
        (second,) = await add(jobs, ("second", "b"))
        dispatcher.wake()
        async with asyncio.timeout(20):
            while executor.bases.count("b") < 4:  # noqa: ASYNC110 - starts are no events
                await asyncio.sleep(0.001)
        (third,) = await add(jobs, ("third", "a"))
        dispatcher.wake()
        await all_succeed(jobs, [third])
        worker.go_on()
        await all_succeed(jobs, [first, second])
    assert worker.jobs == ["first", "second"]


@pytest.mark.parametrize("error", [LeaseLost("gone"), DatabaseUnavailable("away")])
async def test_a_refusal_that_is_not_written_is_written_later(
    make: Make,
    jobs: JobStore,
    object_store: ObstoreStore,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    release = jobs.release
    errors = [error]

    async def released(*args: Any) -> Any:
        if errors:
            raise errors.pop()
        return await release(*args)

    monkeypatch.setattr(jobs, "release", released)
    (name,) = await add(jobs, ("one", "c"))
    dispatcher = make(ScriptedExecutor(object_store), 1, 1, *TWO)
    async with running(dispatcher):
        await ended(jobs, name, JobState.PREPARING)
        dispatcher.wake()
        assert (await ended(jobs, name, JobState.PAUSED)).state is JobState.PAUSED


async def test_a_refused_job_that_was_cancelled_just_then_is_cancelled(
    make: Make, jobs: JobStore, object_store: ObstoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = jobs.claim

    async def claimed(*args: Any, **more: Any) -> Any:
        found = await claim(*args, **more)
        if found is not None:
            await jobs.request_cancel(found[1].name)
        return found

    monkeypatch.setattr(jobs, "claim", claimed)
    (name,) = await add(jobs, ("one", "c"))
    async with running(make(ScriptedExecutor(object_store), 1, 1, *TWO)):
        assert (await ended(jobs, name, JobState.PAUSED)).state is JobState.CANCELLED


async def test_a_stop_during_a_swap_ends_it_and_keeps_the_job(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    executor = HeldExecutor(object_store, "b")
    dispatcher = make(executor, 1, 1, *TWO)
    (name,) = await add(jobs, ("one", "b"))
    async with asyncio.timeout(20), running(dispatcher):
        await executor.waits.wait()
    assert executor.cancelled
    assert all(worker.closed.is_set() for worker in executor.started)
    assert (await jobs.get(name)).state is JobState.QUEUED


@pytest.mark.parametrize("how", ["cancel", "pause"])
async def test_a_job_that_waits_no_more_closes_no_worker(
    make: Make, jobs: JobStore, object_store: ObstoreStore, how: str
) -> None:
    worker = ScriptedWorker(object_store, hold="step-2", only="first")
    executor = ScriptedExecutor(object_store, worker)
    dispatcher = make(executor, 1, 2, *TWO)
    (first,) = await add(jobs, ("first", "a"))
    async with running(dispatcher):
        await worker.held.wait()
        other, later = await add(jobs, ("other", "b"), ("later", "a"))
        dispatcher.wake()
        if how == "cancel":
            _, left = await jobs.request_cancel(other)
            assert left is not None
            dispatcher.cancelled(left)
        else:
            await jobs.request_pause(other)
            dispatcher.wake()
        # The one that would hold it open still goes on.
        await all_succeed(jobs, [later])
        worker.go_on()
        await all_succeed(jobs, [first])
    assert executor.bases == ["a"]


async def test_a_worker_that_dies_while_it_is_chosen_to_give_way_costs_nothing(
    make: Make, jobs: JobStore, object_store: ObstoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = ScriptedWorker(object_store)
    executor = ScriptedExecutor(object_store, worker)
    dispatcher = make(executor, 1, 1, *TWO)
    claim = jobs.claim

    async def claimed(*args: Any, **more: Any) -> Any:
        found = await claim(*args, **more)
        if dispatcher._workers.stock().places and not worker.closed.is_set():
            worker.die()
            await worker.closed.wait()
        return found

    async with running(dispatcher):
        await not_fresh(dispatcher)
        monkeypatch.setattr(jobs, "claim", claimed)
        (name,) = await add(jobs, ("one", "b"))
        dispatcher.wake()
        await all_succeed(jobs, [name])
    assert worker.closed.is_set()
    assert "b" in executor.bases


async def test_a_worker_that_dies_while_it_gives_way_costs_nothing(
    make: Make, jobs: JobStore, object_store: ObstoreStore
) -> None:
    worker = ScriptedWorker(object_store, death="step-3", only="first")
    executor = ScriptedExecutor(object_store, worker)
    names = await add(jobs, ("first", "a"), ("other", "b"))
    async with running(make(executor, 1, 1, *TWO)):
        await all_succeed(jobs, names)
    found: Job = await jobs.get(names[0])
    assert found.lease_epoch == 2
    assert [each.jobs for each in executor.started if each.jobs].count(["other"]) == 1
