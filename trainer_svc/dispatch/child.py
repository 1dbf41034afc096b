"""A child process with a socket, at whose end it ends: a worker, or who stands for one.

What passes here are lines. What it prints goes to the log, and how it ended is told.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress

import structlog

from trainer_svc.dispatch.executor import WorkerLost
from trainer_svc.dispatch.last_lines import LastLines, to_the_log
from trainer_svc.dispatch.memory_limit import exceeded, kernel_kills
from trainer_svc.dispatch.silence import is_stopped, until_silent
from trainer_svc.dispatch.waiting import first

_log = structlog.get_logger(__name__)

_MAX_LINE_BYTES = 64 * 2**20
_CLOSE_SECONDS = 5.0
_PRINTED_SECONDS = 1.0
"""For what a process printed at its end: a child of its own may hold its standard error open."""
_GIB = 2**30
_SENT = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})
"""Signals that no mistake in a program's own work raises."""


async def spawn(
    module: str,
    *,
    environment: Mapping[str, str] | None = None,
    memory: int | None = None,
    silence: float | None = None,
    echo: Callable[[str], None] = to_the_log,
) -> Child:
    """Start `python -m module FD` and connect to it.

    `environment` is what it has beside this process's own; `memory`: bytes that it and its children
    may have; `silence`: seconds after which it counts as lost if it says nothing, or takes nothing
    that it is told, from its first line on. Raises OSError; that or a cancellation leaves neither
    process nor socket behind.
    """
    ours, theirs = socket.socketpair()
    process = None
    try:
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", module, str(theirs.fileno())),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, **(environment or {})},
                # A Ctrl-C in the terminal is for the service, which then suspends its jobs.
                start_new_session=True,
            )
        reader, writer = await asyncio.open_connection(sock=ours, limit=_MAX_LINE_BYTES)
    except BaseException:
        ours.close()
        if process is not None:
            await _kill(process)
        raise
    return Child(process, reader, writer, memory, silence, echo)


async def _kill(process: asyncio.subprocess.Process) -> None:
    # It may have ended by itself just now.
    with suppress(ProcessLookupError):
        process.kill()
    # First: it is not waited for to its end while what it started holds its standard error.
    _kill_group(process.pid)
    await process.wait()


def _kill_group(pid: int) -> None:
    """Kill what a process that led a group of its own has left behind."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


class Child:
    """One child process, the socket to it, and what it prints."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        memory: int | None,
        silence: float | None,
        echo: Callable[[str], None],
    ) -> None:
        self.pid = process.pid
        self._process = process
        self._reader = reader
        self._writer = writer
        self._memory = memory
        self._too_much = False
        self._hung = False
        self._is_gone = False
        self._killed_before = kernel_kills()
        self._lines = LastLines(echo)
        if process.stderr is None:
            raise ValueError("a child without a pipe for its standard error")
        self._printing = asyncio.create_task(self._lines.read(process.stderr))
        self._heard = 0
        self._listening = False
        self._given = 0
        self._silent: float | None = None
        self._stopped = False
        self._watching: set[asyncio.Task[None]] = set()
        if memory is not None:
            self._watching.add(asyncio.create_task(self._watch(memory)))
        if silence is not None:
            self._watching.add(asyncio.create_task(self._end_silent(silence)))

    async def write(self, line: bytes) -> None:
        """Send a line; WorkerLost, with how the process ended, if nobody takes it."""
        try:
            self._writer.write(line)
            self._given += len(line)
            await self._writer.drain()
        except (OSError, RuntimeError) as error:
            # RuntimeError is what uvloop says of a socket that is closed by now.
            raise await self.ended() from error
        if self._silent is not None:
            # What was given up is no longer waited for, and is not taken either.
            raise await self.ended()

    async def read(self) -> bytes:
        """Wait for the next line, and return it with its end; WorkerLost if there will be none."""
        self._listening = True
        try:
            line = await self._reader.readline()
        except (OSError, ValueError) as error:
            raise WorkerLost("the worker process sent what is no report") from error
        finally:
            self._listening = False
        self._heard += 1
        if not line.endswith(b"\n"):
            raise await self.ended()
        return line

    async def ended(self) -> WorkerLost:
        """Wait until the process has ended, for it is about to, and return how it did."""
        if self._silent is not None:
            return await self._given_up(self._silent)
        self._hung |= not await self._end_within(_CLOSE_SECONDS)
        await asyncio.wait({self._printing}, timeout=_PRINTED_SECONDS)
        return self._told(await self._process.wait())

    def _told(self, status: int) -> WorkerLost:
        lines = self._lines
        if self._too_much and self._memory is not None:
            return WorkerLost(
                f"the worker process was ended: it took more than the {self._memory / _GIB:g} GiB "
                "of memory that a worker may (TAILORBIRD_WORKER_MEMORY_GIB)",
                printed=lines.told,
            )
        if self._hung:
            return WorkerLost(
                "the worker process was ended: it had let go of its socket and lived on",
                printed=lines.told,
            )
        number = -status
        if number <= 0:
            raised = f" ({lines.exception})" if lines.exception else ""
            text = f"the worker process ended with status {status}{raised}"
            return WorkerLost(text, printed=lines.told)
        name = _signal_name(number)
        text = f"the worker process was ended by {name}"
        if number == signal.SIGKILL and self._kernel_killed():
            text += ": there was no memory left"
            return WorkerLost(text, printed=lines.told)
        if number in _SENT:
            text += ", which somebody else sent"
            return WorkerLost(text, from_outside=True, printed=lines.told)
        return WorkerLost(text, printed=lines.told)

    def _kernel_killed(self) -> bool:
        now, before = kernel_kills(), self._killed_before
        return now is not None and before is not None and now > before

    async def _watch(self, limit: int) -> None:
        taken = await exceeded(self.pid, limit)
        _log.warning("worker takes too much memory", pid=self.pid, bytes=taken, limit=limit)
        self._too_much = True
        with suppress(ProcessLookupError):
            self._process.kill()

    async def _end_silent(self, seconds: float) -> None:
        await first(until_silent(seconds, self._said), until_silent(seconds, self._took))
        self._stopped = is_stopped(self.pid)
        _log.warning("worker is silent", pid=self.pid, seconds=seconds, stopped=self._stopped)
        self._silent = seconds
        with suppress(ProcessLookupError):
            self._process.kill()
        _kill_group(self.pid)
        # Who reads and who writes need not wait for the end of what hangs in a driver.
        self._writer.transport.abort()

    def _said(self) -> int | None:
        """Return a sign of what it says; None while it loads, or nobody here would hear it."""
        return self._heard if self._heard and self._listening else None

    def _took(self) -> int | None:
        """Return a sign of what it takes; None while it loads, or has taken all it was told."""
        waits = self._writer.transport.get_write_buffer_size()
        return self._given - waits if self._heard and waits else None

    async def _given_up(self, seconds: float) -> WorkerLost:
        ending = asyncio.create_task(self._process.wait())
        await asyncio.wait({ending}, timeout=_PRINTED_SECONDS)
        ending.cancel()
        self._lines.hurry()
        await asyncio.wait({self._printing}, timeout=_PRINTED_SECONDS)
        text = f"the worker process was ended: it had said or taken nothing for {seconds:g} s"
        if self._stopped:
            text += ", since somebody else had stopped it"
        return WorkerLost(text, from_outside=self._stopped, printed=self._lines.told)

    async def close(self, seconds: float = _CLOSE_SECONDS) -> None:
        """Close the socket, at which the process ends by itself; one that hangs is ended."""
        self._writer.close()
        try:
            await self._end_within(seconds)
            await asyncio.wait({self._printing}, timeout=_PRINTED_SECONDS)
        finally:
            # Whoever closes it may be cancelled meanwhile, and nobody else does.
            if not self._is_gone:
                with suppress(ProcessLookupError):
                    self._process.kill()
                _kill_group(self.pid)
            tasks = {self._printing, *self._watching}
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _end_within(self, seconds: float) -> bool:
        """Wait until it is gone, with what it started; tell whether it ended by itself."""
        alone = True
        try:
            async with asyncio.timeout(seconds):
                await self._process.wait()
        except TimeoutError:
            alone = self._process.returncode is not None
            await _kill(self._process)
        if not self._is_gone:
            self._is_gone = True
            _kill_group(self.pid)
        self._lines.hurry()
        return alone


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
