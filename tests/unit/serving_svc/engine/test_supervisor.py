"""The engine dies, falls silent, or does not start: what its supervisor does then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, cast

import pytest

from serving_svc.engine import supervisor as module
from serving_svc.engine.supervisor import Supervisor, Watch
from serving_svc.generation.life import Life
from tailorbird.errors import FailedPrecondition, TailorbirdError, Unavailable
from tailorbird.names import VersionName
from tests.unit.serving_svc.fakes import new_metrics, version


class Engine:
    def __init__(self, number: int) -> None:
        self.number = number
        self.dead = asyncio.Event()
        self.silent_seconds = 0.0
        self.quiet_seconds = 1e6
        self.checks = 0
        self.answers = asyncio.Event()
        self.answers.set()
        self.ended = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.ending = asyncio.Event()

    async def died(self) -> None:
        await self.dead.wait()

    async def check(self) -> None:
        self.checks += 1
        await self.answers.wait()

    async def shutdown(self) -> None:
        self.ending.set()
        await self.may_end.wait()
        self.ended.set()


class Part:
    """Stands for a life's scheduler and its residency."""

    def __init__(self) -> None:
        self.error: TailorbirdError | None = None
        self.closed = False

    def versions(self) -> Sequence[VersionName]:
        return [version(1)]

    def close(self, error: TailorbirdError | None = None) -> Any:
        if error is None:
            return self.aclose()
        self.error = error
        return None

    async def aclose(self) -> None:
        self.closed = True


class World:
    def __init__(self, stall: float = 60, idle: float = 60, attempts: int = 3) -> None:
        self.engines: list[Engine] = []
        self.failures: list[Exception] = []
        self.told: asyncio.Queue[bool] = asyncio.Queue()
        self.restored: list[VersionName] = []
        self.may_restore = asyncio.Event()
        self.may_restore.set()
        self.may_start = asyncio.Event()
        self.may_start.set()
        watch = Watch(stall=stall, idle=idle, longest_delay=0, attempts=attempts)
        self.metrics = new_metrics()
        self.supervisor = Supervisor(
            self.start, self.live, self.restore, self.told.put, watch, self.metrics
        )

    async def start(self) -> Engine:
        await self.may_start.wait()
        if self.failures:
            raise self.failures.pop(0)
        self.engines.append(Engine(len(self.engines)))
        return self.engines[-1]

    def live(self, engine: Engine) -> Life:
        parts = [cast("Any", Part()) for _ in range(3)]
        return Life(cast("Any", engine), *parts)

    async def begin(self) -> None:
        self.supervisor.begin(await self.start())

    async def restore(self, versions: Sequence[VersionName]) -> None:
        self.restored.extend(versions)
        # What was hot is brought back before anybody is told.
        assert self.told.empty()
        await self.may_restore.wait()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WATCH_SECONDS", 0.0)
    monkeypatch.setattr(module, "_FIRST_DELAY", 0.0)


@pytest.fixture
async def run() -> AsyncIterator[Callable[[World], asyncio.Task[None]]]:
    tasks: list[asyncio.Task[None]] = []

    def begin(world: World) -> asyncio.Task[None]:
        tasks.append(asyncio.create_task(world.supervisor.run()))
        return tasks[-1]

    yield begin
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


Run = Callable[[World], asyncio.Task[None]]


async def test_there_is_no_life_before_the_start() -> None:
    with pytest.raises(Unavailable) as refused:
        World().supervisor.current()
    assert refused.value.reason == "ENGINE_RESTARTING"


async def test_a_dead_engine_is_followed_by_another(run: Run) -> None:
    world = World()
    await world.begin()
    life = world.supervisor.current()
    run(world)
    world.engines[0].dead.set()
    assert await world.told.get() is False
    assert await world.told.get() is True
    assert world.supervisor.current() is not life
    assert world.engines[0].ended.is_set()
    assert world.restored == [version(1)]
    assert world.metrics.engine_restarts._value.get() == 1


async def test_those_who_wait_are_told_to_come_again(run: Run) -> None:
    world = World()
    await world.begin()
    life = world.supervisor.current()
    run(world)
    world.engines[0].dead.set()
    await world.told.get()
    error = cast("Part", life.scheduler).error
    assert isinstance(error, Unavailable)
    assert error.retry_after > 0
    await world.told.get()
    assert cast("Part", life.scheduler).closed
    assert cast("Part", life.residency).closed


async def test_while_it_restarts_there_is_no_life(run: Run) -> None:
    world = World()
    await world.begin()
    run(world)
    world.engines[0].dead.set()
    assert await world.told.get() is False
    with pytest.raises(Unavailable):
        world.supervisor.current()


async def test_a_busy_engine_that_is_silent_is_ended(run: Run) -> None:
    world = World(stall=5)
    await world.begin()
    run(world)
    world.engines[0].silent_seconds = 5.1
    assert await world.told.get() is False
    assert await world.told.get() is True
    assert world.engines[0].ended.is_set()


async def test_a_busy_engine_that_talks_is_left_alone(run: Run) -> None:
    world = World(stall=5, idle=0)
    await world.begin()
    run(world)
    world.engines[0].silent_seconds = 4.9
    world.engines[0].quiet_seconds = 0
    for _ in range(50):
        await asyncio.sleep(0)
    assert world.told.empty()
    # Busy, it needs no tiny generation to prove itself.
    assert world.engines[0].checks == 0


async def test_an_idle_engine_that_cannot_generate_is_ended(run: Run) -> None:
    world = World(stall=0.01, idle=0)
    await world.begin()
    world.engines[0].answers.clear()
    run(world)
    assert await world.told.get() is False
    assert await world.told.get() is True
    assert world.engines[0].checks == 1


async def test_an_idle_engine_that_can_is_left_alone(run: Run) -> None:
    world = World(idle=0)
    await world.begin()
    run(world)
    while world.engines[0].checks < 3:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert world.told.empty()


async def test_a_start_that_fails_is_tried_again(run: Run) -> None:
    world = World()
    await world.begin()
    world.failures = [FailedPrecondition("not yet"), OSError("nor yet")]
    run(world)
    world.engines[0].dead.set()
    assert await world.told.get() is False
    assert await world.told.get() is True
    assert len(world.engines) == 2


async def test_it_gives_up_after_so_many_failures(run: Run) -> None:
    world = World(attempts=2)
    await world.begin()
    world.failures = [FailedPrecondition("never")] * 5
    task = run(world)
    world.engines[0].dead.set()
    await task
    assert len(world.failures) == 3


async def test_engines_that_die_at_once_are_not_started_for_ever(run: Run) -> None:
    world = World(attempts=2)
    await world.begin()
    task = run(world)
    for number in range(3):
        world.engines[number].dead.set()
        assert await world.told.get() is False
        if number < 2:
            assert await world.told.get() is True
    await task


async def test_close_ends_the_engine() -> None:
    world = World()
    await world.begin()
    await world.supervisor.close()
    assert world.engines[0].ended.is_set()
    with pytest.raises(Unavailable):
        world.supervisor.current()


async def test_a_quiet_engine_is_checked_though_requests_come_and_go(run: Run) -> None:
    world = World(stall=5, idle=0)
    await world.begin()
    world.engines[0].answers.clear()
    world.engines[0].silent_seconds = 4.99
    run(world)
    assert await world.told.get() is False
    assert await world.told.get() is True
    assert world.engines[0].checks == 1


async def test_a_check_behind_long_prompts_is_no_stall(run: Run) -> None:
    world = World(stall=0.001, idle=0)
    await world.begin()
    world.engines[0].answers.clear()
    late = asyncio.Event()

    async def check() -> None:
        world.engines[0].checks += 1
        # It gave something meanwhile, though not to this.
        world.engines[0].quiet_seconds = 0
        try:
            await asyncio.Event().wait()
        finally:
            late.set()

    world.engines[0].check = check  # type: ignore[method-assign]
    run(world)
    await late.wait()
    for _ in range(50):
        await asyncio.sleep(0)
    assert world.told.empty()


async def test_an_engine_that_dies_while_it_is_warmed_is_followed_at_once(run: Run) -> None:
    world = World()
    await world.begin()
    world.may_restore.clear()
    run(world)
    world.engines[0].dead.set()
    assert await world.told.get() is False
    while not world.restored:  # noqa: ASYNC110
        await asyncio.sleep(0)
    world.engines[1].dead.set()
    # Never told that it takes requests.
    assert await world.told.get() is False
    world.may_restore.set()
    assert await world.told.get() is True
    assert len(world.engines) == 3


async def test_cancelled_while_an_engine_ends_it_ends_wholly(run: Run) -> None:
    world = World()
    await world.begin()
    life = world.supervisor.current()
    world.engines[0].may_end.clear()
    task = run(world)
    world.engines[0].dead.set()
    await world.engines[0].ending.wait()
    task.cancel()
    world.engines[0].may_end.set()
    await asyncio.wait({task})
    assert task.cancelled()
    assert world.engines[0].ended.is_set()
    assert cast("Part", life.residency).closed
    await world.supervisor.close()


async def test_cancelled_while_an_engine_starts_it_says_so(run: Run) -> None:
    world = World()
    await world.begin()
    task = run(world)
    world.may_start.clear()
    world.engines[0].dead.set()
    while not world.supervisor.starting:  # noqa: ASYNC110
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert world.supervisor.starting


async def test_once_it_has_started_or_failed_it_says_so_no_more(run: Run) -> None:
    world = World(attempts=2)
    await world.begin()
    world.failures = [FailedPrecondition("not yet")]
    task = run(world)
    world.engines[0].dead.set()
    assert await world.told.get() is False
    assert await world.told.get() is True
    assert not world.supervisor.starting
    world.failures = [FailedPrecondition("never")] * 2
    world.engines[1].dead.set()
    await task
    assert not world.supervisor.starting


async def test_an_engine_that_does_not_end_well_is_followed_all_the_same(run: Run) -> None:
    world = World()
    await world.begin()
    life = world.supervisor.current()

    async def shutdown() -> None:
        raise OSError("no such process")

    world.engines[0].shutdown = shutdown  # type: ignore[method-assign]
    run(world)
    world.engines[0].dead.set()
    assert await world.told.get() is False
    assert await world.told.get() is True
    assert cast("Part", life.residency).closed
