"""A command that a signal ends: its exit status, its line, and what it may still close."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Coroutine
from typing import Any

import pytest
import uvloop

from tailorbird.interruption import Interruption

BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


def line(number: int) -> str:
    return (
        f"erase acme: interrupted by {signal.Signals(number).name} before its end; run it again\n"
    )


def run(body: str, number: int, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run `body` as a command that is interrupted where it calls `interrupt`."""
    code = f"""
import asyncio, os, signal, sys, threading
from tailorbird.interruption import Interruption
from tailorbird.process import prepare_process

interruption = Interruption("erase\\nacme", seconds={seconds})
prepare_process(interruption.heed)

def interrupt():
    os.kill(os.getpid(), {int(number)})

{body}
"""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )


@BOTH
def test_before_anything_is_open_it_ends_at_once(number: int) -> None:
    done = run('interrupt()\nprint("it goes on")', number)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", line(number))


@BOTH
def test_what_is_open_is_closed_before_it_ends(number: int) -> None:
    body = """
import uvloop

async def work():
    try:
        asyncio.get_running_loop().call_later(0, interrupt)
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        print("closed")

raise SystemExit(uvloop.run(interruption.run(work())))
"""
    done = run(body, number)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "closed\n", line(number))


@BOTH
@pytest.mark.parametrize(
    "never",
    [
        "threading.Event().wait",
        "lambda: asyncio.run(asyncio.sleep(1e6))",
    ],
)
def test_what_never_ends_is_left(number: int, never: str) -> None:
    body = f"""
async def work():
    never = asyncio.get_running_loop().run_in_executor(None, {never})
    interrupt()
    await never
    return 0

raise SystemExit(asyncio.run(interruption.run(work())))
"""
    done = run(body, number, seconds=0.2)
    assert (done.returncode, done.stderr) == (128 + number, line(number))


def test_work_that_heeds_no_cancellation_is_left() -> None:
    body = """
async def work():
    interrupt()
    never = asyncio.Event()
    while True:
        try:
            await never.wait()
        except asyncio.CancelledError:
            pass

raise SystemExit(asyncio.run(interruption.run(work())))
"""
    done = run(body, signal.SIGINT, seconds=0.2)
    assert (done.returncode, done.stderr) == (130, line(signal.SIGINT))


def test_further_signals_give_it_no_further_time() -> None:
    body = """
async def work():
    def again():
        interrupt()
        asyncio.get_running_loop().call_later(0.05, again)
    again()
    never = asyncio.Event()
    while True:
        try:
            await never.wait()
        except asyncio.CancelledError:
            pass

raise SystemExit(asyncio.run(interruption.run(work())))
"""
    done = run(body, signal.SIGTERM, seconds=0.5)
    assert (done.returncode, done.stderr) == (143, line(signal.SIGTERM))


def test_work_that_is_done_by_then_has_its_own_status() -> None:
    body = """
async def work():
    return 7

status = asyncio.run(interruption.run(work()))
interrupt()
interrupt()
raise SystemExit(status)
"""
    done = run(body, signal.SIGTERM)
    assert (done.returncode, done.stderr) == (7, "")


def test_a_failure_on_the_way_out_is_the_interruption_s() -> None:
    body = """
async def work():
    interrupt()
    try:
        await asyncio.Event().wait()
    finally:
        raise OSError("a connection that was cut")

raise SystemExit(asyncio.run(interruption.run(work())))
"""
    done = run(body, signal.SIGTERM)
    assert (done.returncode, done.stderr) == (143, line(signal.SIGTERM))


def test_a_failure_without_a_signal_passes_through() -> None:
    async def fails() -> int:
        raise OSError("no")

    async def cancelled() -> int:
        raise asyncio.CancelledError

    def done(work: Coroutine[Any, Any, int]) -> int:
        return uvloop.run(Interruption("erase acme").run(work))

    with pytest.raises(OSError, match="no"):
        done(fails())
    with pytest.raises(asyncio.CancelledError):
        done(cancelled())
