"""Where workers run: `Executor` is what the dispatcher needs, `LocalExecutor` gives processes."""

from __future__ import annotations

import asyncio
import shutil
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import structlog
from pydantic import ValidationError

from tailorbird.errors import FailedPrecondition, Unavailable
from trainer_svc.protocol import (
    REPORT,
    Cancel,
    Ready,
    Report,
    Start,
    Suspend,
    Unusable,
    Upload,
    WorkerSettings,
    encode,
)

_log = structlog.get_logger(__name__)

_MAX_LINE_BYTES = 64 * 2**20
_LOAD_SECONDS = 3600.0
"""More than any load takes: one that hangs, on a volume that is gone, gives its slot back."""


class WorkerLost(Unavailable):
    """The worker process is gone, or says what no worker says."""

    default_reason = "WORKER_LOST"


class Worker(Protocol):
    """A process that has the base model loaded and trains jobs on it."""

    async def send(self, command: Start | Upload | Cancel | Suspend) -> None:
        """Give a command; WorkerLost if nobody is there to take it."""

    async def receive(self) -> Report:
        """Wait for the next report; WorkerLost if there will be none."""

    async def close(self) -> None:
        """End the worker, whatever it does, and wait until it is gone."""


class Executor(Protocol):
    """Starts workers."""

    async def start(self, index: int, base: str) -> Worker:
        """Start worker `index` and wait until it has loaded the base with the digest `base`.

        Raises WorkerLost if it dies or hangs, FailedPrecondition if no worker can load the base.
        """


class LocalExecutor:
    """Workers as child processes.

    `settings` is theirs but for the scratch folder, by the digest of the base.
    """

    def __init__(self, settings: Mapping[str, WorkerSettings]) -> None:
        self._settings = settings
        self.ready: dict[str, Ready] = {}
        """What the newest worker with each base said once it was loaded."""

    async def start(self, index: int, base: str) -> Worker:
        """See Executor."""
        settings = self._settings[base]
        scratch = Path(settings.scratch_dir) / f"worker-{index}"
        try:
            await asyncio.to_thread(_empty, scratch)
            worker = await _spawn()
        except OSError as error:
            # A full disk, no file descriptor, no memory to fork: another try may fare better.
            raise WorkerLost(f"no worker process can be started: {error}") from error
        try:
            try:
                async with asyncio.timeout(_LOAD_SECONDS):
                    await worker.send(settings.model_copy(update={"scratch_dir": str(scratch)}))
                    ready = await worker.receive()
            except TimeoutError as error:
                raise WorkerLost(
                    f"the worker process was not ready within {_LOAD_SECONDS:g} s"
                ) from error
            if isinstance(ready, Unusable):
                raise FailedPrecondition(
                    ready.error.message, reason=ready.error.reason, setting="base_model"
                )
            if not isinstance(ready, Ready):
                raise WorkerLost(f"the worker process began with {ready.kind}")
        except BaseException:
            await worker.close()
            raise
        self.ready[base] = ready
        name, report = settings.base_model_name, ready.model_dump()
        _log.info("worker ready", index=index, pid=worker.pid, base=name, report=report)
        return worker


def _empty(scratch: Path) -> None:
    shutil.rmtree(scratch, ignore_errors=True)
    # What could not be removed is in the worker's way less than no worker is in the jobs'.
    scratch.mkdir(parents=True, exist_ok=True)


async def _spawn() -> LocalWorker:
    """Start a process and connect to it; OSError, or a cancellation, leaves neither behind."""
    ours, theirs = socket.socketpair()
    process = None
    try:
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "trainer_svc.engine", str(theirs.fileno())),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                # A Ctrl-C in the terminal is for the service, which then suspends its jobs.
                start_new_session=True,
            )
        reader, writer = await asyncio.open_connection(sock=ours, limit=_MAX_LINE_BYTES)
    except BaseException:
        ours.close()
        if process is not None:
            await _kill(process)
        raise
    return LocalWorker(process, reader, writer)


async def _kill(process: asyncio.subprocess.Process) -> None:
    # It may have ended by itself just now.
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


class LocalWorker:
    """One child process and the socket to it."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.pid = process.pid
        self._process = process
        self._reader = reader
        self._writer = writer

    async def send(self, command: Start | Upload | Cancel | Suspend | WorkerSettings) -> None:
        """See Worker."""
        try:
            self._writer.write(encode(command))
            await self._writer.drain()
        except OSError as error:
            raise WorkerLost("the worker process does not take commands") from error

    async def receive(self) -> Report:
        """See Worker."""
        try:
            line = await self._reader.readline()
            if line.endswith(b"\n"):
                return REPORT.validate_json(line)
        except (OSError, ValueError, ValidationError) as error:
            raise WorkerLost("the worker process sent what is no report") from error
        code = await self._process.wait()
        raise WorkerLost(f"the worker process ended with status {code}", status=code)

    async def close(self) -> None:
        """See Worker."""
        self._writer.close()
        if self._process.returncode is None:
            # A worker ends itself when its socket closes; one that hangs is ended.
            try:
                async with asyncio.timeout(5):
                    await self._process.wait()
            except TimeoutError:
                await _kill(self._process)
