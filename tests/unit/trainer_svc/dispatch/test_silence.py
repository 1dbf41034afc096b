"""For how long somebody says nothing, by a clock of the test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trainer_svc.dispatch.silence import is_stopped, until_silent

MODULE = "trainer_svc.dispatch.silence"


class Clock:
    """Time passes while it is slept; `late` has a sleep, by its number, take so much longer."""

    def __init__(self) -> None:
        self.now = 100.0
        self.sleeps = 0
        self.late: dict[int, float] = {}

    async def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        self.now += seconds + self.late.get(self.sleeps, 0.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(f"{MODULE}.sleep", clock.sleep)
    monkeypatch.setattr(f"{MODULE}.monotonic", lambda: clock.now)
    return clock


def saying(clock: Clock, sign: Callable[[int], object]) -> Callable[[], object]:
    return lambda: sign(clock.sleeps)


async def test_who_says_nothing_is_silent_after_the_whole_time(clock: Clock) -> None:
    await until_silent(120, lambda: 7)
    assert (clock.sleeps, clock.now) == (12, 220)


async def test_what_is_said_at_last_counts_anew(clock: Clock) -> None:
    await until_silent(120, saying(clock, lambda looks: looks >= 11))
    assert clock.sleeps == 11 + 12


async def test_nobody_is_silent_while_nobody_listens(clock: Clock) -> None:
    await until_silent(120, saying(clock, lambda looks: None if looks <= 50 else 1))
    assert clock.sleeps == 51 + 12


@pytest.mark.parametrize("look", [1, 11, 12])
async def test_time_in_which_the_trainer_stood_still_does_not_count(
    clock: Clock, look: int
) -> None:
    clock.late[look] = 1e6
    await until_silent(120, lambda: 1)
    assert clock.sleeps == look + 12


async def test_a_trainer_that_is_somewhat_late_listens_all_the_same(clock: Clock) -> None:
    clock.late = dict.fromkeys(range(1, 100), 9.0)
    await until_silent(120, lambda: 1)
    assert clock.sleeps == 12


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as started:
        yield started
        started.kill()


def test_a_process_that_somebody_stopped_is_known(process: subprocess.Popen[bytes]) -> None:
    assert not is_stopped(process.pid)
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    assert is_stopped(process.pid)
    process.kill()
    process.wait()
    assert not is_stopped(process.pid)


@pytest.mark.parametrize(("state", "stopped"), [("T", True), ("t", True), ("S", False)])
def test_a_name_is_no_state(tmp_path: Path, state: str, stopped: bool) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_text(f"7 (a) T ) {state} 1 7 7 0 -1")
    assert is_stopped(7, tmp_path) is stopped
