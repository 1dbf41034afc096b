"""When a worker says that it runs, and when it ends because what it lives by hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.unit.trainer_svc.engine.reference import ReferenceBank
from trainer_svc.engine.__main__ import _signs
from trainer_svc.engine.loop import StepThread
from trainer_svc.engine.pulse import Pulse, turns_of


class Service:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.takes = True
        self.told = 0

    def say(self) -> bool:
        self.told += self.takes
        return self.takes


def pulse(service: Service, sign: Callable[[], int | None]) -> Pulse:
    """Return one with a beat a second, for whom ten seconds are too long."""
    return Pulse(service.say, 12, {"the device": sign}, longest=10)


def beat(pulse: Pulse, count: int) -> None:
    for _ in range(count):
        pulse.beat()


def test_it_says_that_it_runs_at_each_beat() -> None:
    service, turns = Service(), iter(range(1000))
    beat(pulse(service, lambda: next(turns)), 100)
    assert service.told == 100


def test_what_hangs_ends_the_worker() -> None:
    service = Service()
    hung = pulse(service, lambda: 7)
    beat(hung, 11)
    with pytest.raises(TimeoutError, match="the device has hung for 10 s"):
        hung.beat()


def test_what_turns_once_in_the_time_does_not_hang() -> None:
    turns = iter(range(1000))
    going_on = pulse(Service(), lambda: next(turns) // 11)
    beat(going_on, 500)


def test_what_waits_for_work_does_not_hang() -> None:
    idle = pulse(Service(), lambda: None)
    beat(idle, 100)


def test_what_waits_for_the_service_does_not_hang() -> None:
    service = Service()
    kept = pulse(service, lambda: 7)
    for _ in range(10):
        service.takes = True
        beat(kept, 10)
        service.takes = False
        beat(kept, 10)
    assert service.told == 100


async def test_an_event_loop_that_turns_shows_it() -> None:
    sign = turns_of(asyncio.get_running_loop())
    first, while_it_stands = sign(), sign()
    assert first == while_it_stands
    await asyncio.sleep(0)
    assert sign() not in {None, first}


@pytest.mark.parametrize(
    ("device", "what"), [("cpu", ["the event loop"]), ("cuda", ["the event loop", "the device"])]
)
async def test_a_processor_may_take_as_long_as_it_likes(device: str, what: list[str]) -> None:
    steps = StepThread(ReferenceBank())
    assert list(_signs(device, steps)) == what
    await asyncio.to_thread(steps.close)
