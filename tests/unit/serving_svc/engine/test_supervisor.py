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
        self.checks = 0
        self.answers = asyncio.Event()
        self.answers.set()
        self.ended = asyncio.Event()

    async def died(self) -> None:
        await self.dead.wait()

    async def check(self) -> None:
        self.checks += 1
        await self.answers.wait()

    async def shutdown(self) -> None:
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
    def __init__(self, **watch: float) -> None:
        self.engines: list[Engine] = []
        self.failures: list[TailorbirdError] = []
        self.told: asyncio.Queue[bool] = asyncio.Queue()
        self.restored: list[VersionName] = []
        settings = {"stall": 60.0, "idle": 60.0, "longest_delay": 0.0, "attempts": 3} | watch
        self.metrics = new_metrics()
        self.supervisor = Supervisor(
            self.start, self.live, self.restore, self.told.put, Watch(**settings), self.metrics
        )

    async def start(self) -> Engine:
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
    world.failures = [FailedPrecondition("not yet")]
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
