"""Real child processes: their lines, their memory, and what is said of how they ended."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import psutil
import pytest
import uvloop
from structlog.testing import capture_logs

from trainer_svc.dispatch.child import Child, spawn
from trainer_svc.dispatch.executor import WorkerLost

MODULE = "tests.unit.trainer_svc.dispatch.dying"


@asynccontextmanager
async def child(
    memory: int | None = None, silence: float | None = None, **environment: str
) -> AsyncIterator[Child]:
    started = await spawn(MODULE, memory=memory, silence=silence, environment=environment)
    try:
        yield started
    finally:
        await started.close()


async def told(process: Child, *lines: str) -> None:
    """Give it lines, and hear each again."""
    for line in lines:
        await process.write(f"{line}\n".encode())
        assert await process.read() == f"{line}\n".encode()


async def lost(process: Child) -> WorkerLost:
    with pytest.raises(WorkerLost) as caught:
        await process.read()
    return caught.value


async def test_lines_pass_both_ways_and_variables_are_its_own() -> None:
    async with child(TAILORBIRD_TEST="here") as process:
        await told(process, "one", "two", "variable TAILORBIRD_TEST")
        assert await process.read() == b"here\n"
        await told(process, "variable PATH")
        assert await process.read() == f"{os.environ['PATH']}\n".encode()


async def test_its_own_crash_is_told_with_the_type_of_the_exception() -> None:
    async with child() as process:
        await told(process, "print before /srv/x", "raise of /srv/models")
        error = await lost(process)
    assert error.message == "the worker process ended with status 1 (ValueError)"
    assert not error.from_outside
    assert error.printed.endswith("ValueError: of models")
    assert "/srv" not in error.printed


@pytest.mark.parametrize(
    ("number", "says", "from_outside"),
    [
        (signal.SIGSEGV, "SIGSEGV", False),
        (signal.SIGABRT, "SIGABRT", False),
        (signal.SIGKILL, "SIGKILL, which somebody else sent", True),
        (signal.SIGTERM, "SIGTERM, which somebody else sent", True),
        (signal.SIGRTMIN + 3, f"signal {signal.SIGRTMIN + 3}", False),
    ],
)
async def test_a_signal_is_told_by_its_name_and_whose_it_is(
    number: int, says: str, from_outside: bool
) -> None:
    async with child() as process:
        await told(process, f"signal {int(number)}")
        error = await lost(process)
    assert error.message == f"the worker process was ended by {says}"
    assert error.from_outside == from_outside


async def test_the_kernels_own_kill_for_memory_is_the_workers_doing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = iter([4, 5])
    monkeypatch.setattr("trainer_svc.dispatch.child.kernel_kills", lambda: next(counts))
    async with child() as process:
        await told(process, f"signal {int(signal.SIGKILL)}")
        error = await lost(process)
    assert error.message.endswith("SIGKILL: there was no memory left")
    assert not error.from_outside


async def test_one_that_takes_too_much_memory_is_ended_and_it_is_its_own_doing() -> None:
    async with child(memory=100 * 2**20) as process:
        await told(process, "one", f"take {300 * 2**20}")
        with pytest.raises(WorkerLost) as caught:
            # It may say that it has taken it, or not any more.
            assert (await process.read()).startswith(b"took")
            await process.read()
    error = caught.value
    assert "more than the 0.0976562 GiB of memory" in error.message
    assert "TAILORBIRD_WORKER_MEMORY_GIB" in error.message
    assert not error.from_outside


async def test_one_that_takes_less_is_not_ended() -> None:
    async with child(memory=2**30) as process:
        await told(process, f"take {100 * 2**20}")
        assert (await process.read()).startswith(b"took")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await process.read()


async def test_an_exit_is_told_with_its_status() -> None:
    async with child() as process:
        await told(process, "exit 7")
        error = await lost(process)
    assert error.message == "the worker process ended with status 7"


async def test_a_line_without_an_end_is_none() -> None:
    async with child() as process:
        await told(process, "half")
        error = await lost(process)
    assert error.message == "the worker process ended with status 0"


async def test_one_that_lets_go_of_its_socket_and_lives_on_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trainer_svc.dispatch.child._CLOSE_SECONDS", 0.1)
    async with child() as process:
        await told(process, "silence")
        error = await lost(process)
    assert error.message == (
        "the worker process was ended: it had let go of its socket and lived on"
    )
    assert not error.from_outside
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


@pytest.mark.parametrize("word", ["one", "hang"])
async def test_a_child_that_is_closed_is_gone(word: str) -> None:
    process = await spawn(MODULE)
    await told(process, word)
    await process.close(0.5)
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def grandchild(process: Child) -> int:
    """Have it start a process of its own, which ends by itself long after the test."""
    await told(process, "start")
    return int(await process.read())


async def ended(pid: int) -> None:
    """Wait until a process that is no child of ours is gone, or a zombie that nobody reaps."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            await asyncio.to_thread(process.wait, 10)


@pytest.mark.parametrize("how", ["exit 0", f"signal {int(signal.SIGKILL)}", "silence"])
async def test_what_it_started_ends_with_it(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer_svc.dispatch.child._CLOSE_SECONDS", 0.1)
    async with child() as process:
        started = await grandchild(process)
        await told(process, how)
        error = await lost(process)
        await ended(started)
    assert ("lived on" in error.message) == (how == "silence")


async def test_one_whose_end_is_waited_for_no_longer_is_gone_with_what_it_started() -> None:
    process = await spawn(MODULE)
    started = await grandchild(process)
    await told(process, "hang")
    closing = asyncio.create_task(process.close(60))
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await ended(process.pid)
    await ended(started)
    await process.close()


async def test_a_line_that_is_too_long_is_no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer_svc.dispatch.child._MAX_LINE_BYTES", 1000)
    async with child() as process:
        await process.write(b"x" * 10_000 + b"\n")
        error = await lost(process)
    assert "no report" in error.message


async def test_one_that_takes_no_lines_is_lost() -> None:
    async with child() as process:
        await told(process, "exit 0")
        await lost(process)
        with pytest.raises(WorkerLost, match="ended with status 0"):
            for _ in range(100):
                await process.write(b"x" * 2**16 + b"\n")
                await asyncio.sleep(0)


def test_one_that_was_killed_and_takes_no_lines_was_ended_from_outside_on_the_service_s_loop() -> (
    None
):
    async def killed() -> WorkerLost:
        async with child() as process:
            await told(process, "one")
            os.kill(process.pid, signal.SIGKILL)
            await lost(process)
            with pytest.raises(WorkerLost) as caught:
                for _ in range(100):
                    await process.write(b"x" * 2**16 + b"\n")
                    await asyncio.sleep(0)
        return caught.value

    error = uvloop.run(killed())
    assert error.from_outside
    assert error.message == "the worker process was ended by SIGKILL, which somebody else sent"


async def test_what_it_prints_is_passed_on() -> None:
    printed: list[str] = []
    process = await spawn(MODULE, echo=printed.append)
    await told(process, "print one", "print two", "exit 0")
    await lost(process)
    await process.close()
    assert printed == ["one", "two"]


async def test_one_that_says_nothing_any_more_is_ended_with_what_it_started() -> None:
    async with child(silence=0.5) as process:
        started = await grandchild(process)
        with capture_logs() as logs:
            error = await lost(process)
        await ended(process.pid)
        await ended(started)
    assert error.message == ("the worker process was ended: it had said or taken nothing for 0.5 s")
    # As far as is known: what holds its threads up may be the job's own.
    assert not error.from_outside
    assert [log["event"] for log in logs] == ["worker is silent"]


async def test_one_that_somebody_stopped_is_ended_and_was_no_jobs_doing() -> None:
    async with child(silence=0.5) as process:
        await told(process, "one")
        os.kill(process.pid, signal.SIGSTOP)
        error = await lost(process)
        await ended(process.pid)
    assert error.message.endswith("for 0.5 s, since somebody else had stopped it")
    assert error.from_outside


async def test_one_that_takes_nothing_is_ended_although_it_speaks() -> None:
    async with child(silence=0.5) as process:
        await told(process, "chatter")
        await process.write(b"hang\n")
        reading = asyncio.create_task(heard_to_the_end(process))
        with pytest.raises(WorkerLost, match="said or taken nothing"):
            await process.write(b"x" * 2**24 + b"\n")
        assert (await reading).message.endswith("for 0.5 s")


async def test_what_is_given_up_is_not_taken_for_heard() -> None:
    async with child(silence=0.5) as process:
        await told(process, "chatter")
        await process.write(b"hang\n")
        reading = asyncio.create_task(heard_to_the_end(process))
        with pytest.raises(WorkerLost, match="said or taken nothing"):
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await process.write(b"x" * 2**20 + b"\n")
        await reading


async def heard_to_the_end(process: Child) -> WorkerLost:
    with pytest.raises(WorkerLost) as caught:
        while True:
            await process.read()
    return caught.value


def stand_still(seconds: float) -> None:
    """Let the whole process look at neither timers nor sockets."""
    time.sleep(seconds)


async def test_one_that_speaks_is_not_ended_while_the_service_stands_still() -> None:
    async with child(silence=1.0) as process:
        await told(process, "chatter")
        for _ in range(3):
            stand_still(1.2)
            for _ in range(50):
                assert await process.read() == b"still here\n"


async def test_one_that_loads_or_to_whom_nobody_listens_is_not_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: asyncio.Queue[object] = asyncio.Queue()

    async def look(_: float, sign: Callable[[], object]) -> None:
        await looks.put(sign())
        await asyncio.Event().wait()

    monkeypatch.setattr("trainer_svc.dispatch.child.until_silent", look)
    async with child(silence=1.0) as process:
        assert {await looks.get(), await looks.get()} == {None}
        os.kill(process.pid, signal.SIGSTOP)
        long = b"x" * 2**24 + b"\n"
        listening, telling = (
            asyncio.create_task(process.read()),
            asyncio.create_task(process.write(long)),
        )
        await asyncio.sleep(0)
        assert process._listening
        assert process._writer.transport.get_write_buffer_size()
        assert (process._said(), process._took()) == (None, None)
        os.kill(process.pid, signal.SIGCONT)
        assert await listening == long
        await telling
        assert (process._said(), process._took()) == (None, None)
        listening = asyncio.create_task(process.read())
        await asyncio.sleep(0)
        assert (process._said(), process._took()) == (1, None)
        await process.write(b"two\n")
        assert await listening == b"two\n"


async def test_one_that_cannot_be_ended_is_waited_for_no_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trainer_svc.dispatch.child._PRINTED_SECONDS", 0.1)
    async with child(silence=0.5) as process:
        await told(process, "one")
        with monkeypatch.context() as patched:
            # As in the midst of a driver.
            patched.setattr(process._process, "kill", lambda: None)
            patched.setattr("trainer_svc.dispatch.child._kill_group", lambda _: None)
            os.kill(process.pid, signal.SIGSTOP)
            async with asyncio.timeout(20):
                error = await lost(process)
        os.kill(process.pid, 0)
        await process.close(0.1)
    assert error.from_outside
