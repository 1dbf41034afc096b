"""The worker's end in a Ray cluster: an actor that has the worker process as its child.

The process is what it is on the service's own machine: its exit, its memory limit, its socket, at
whose end it ends. Of Ray it knows nothing, and this module does not import it either.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from tailorbird import __version__
from tailorbird.base_model import load_base_model
from tailorbird.errors import InvalidArgument
from trainer_svc.dispatch.child import Child, spawn
from trainer_svc.dispatch.executor import WorkerLost
from trainer_svc.dispatch.ray_order import RayOrder
from trainer_svc.dispatch.scratch import Scratch
from trainer_svc.protocol import Lost, WorkerSettings, encode

_T = TypeVar("_T")

_ENGINE = "trainer_svc.engine"
_WAITING_LINES = 64
"""Reports that nobody has taken yet; more wait in the worker."""
_BATCH_BYTES = 8 * 2**20
_PRINTED_LINES = 1000
_POLL_SECONDS = 10.0
_CLOSE_SECONDS = 3.0

Batch = tuple[list[bytes], list[str], bytes]
"""Reports, lines for the log, and how the worker ended, encoded; b"" while it lives."""


class EngineActor:
    """Has one worker process. Every method may be called while another one waits.

    None is a coroutine: with a single one, Ray would call all of them one after the other.
    """

    def __init__(self) -> None:
        # Where there is uvloop, Ray makes it the default, and that starts no process from a thread.
        asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy())
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="engine", daemon=True).start()
        self._engine = Engine()
        self._scratch: Scratch | None = None
        self._attended = time.monotonic()

    def node(self) -> tuple[str, str]:
        """Return the machine's name and the release that it has."""
        return socket.gethostname(), __version__

    def begin(self, order: bytes) -> None:
        """Start the worker process; whatever is in the way is told as its end."""
        asked = RayOrder.model_validate_json(order)
        threading.Thread(
            target=self._end_unattended, args=(2 * asked.cluster.silence_seconds,), daemon=True
        ).start()
        try:
            self._scratch = Scratch.claimed(Path(asked.cluster.data_dir) / "scratch")
            settings = _settings(asked, self._scratch.path)
            self._in_loop(self._engine.start(settings, asked.cluster.memory))
        except InvalidArgument as error:
            self._never_began(f"its machine has not the base: {error.message}")
        except OSError as error:
            self._never_began(f"its process cannot be started: {error}")
        except WorkerLost as error:
            self._never_began(error.message)

    def send(self, line: bytes) -> None:
        """Give the worker a command. One that has ended takes none, and `receive` tells."""
        self._in_loop(self._engine.send(line))

    def receive(self) -> Batch:
        """Wait for some time for what is new, and return it in order."""
        return self._in_loop(self._engine.news())

    def attend(self) -> None:
        """Note that somebody is there."""
        self._attended = time.monotonic()

    def end(self) -> None:
        """End the worker and delete its folder."""
        self._in_loop(self._engine.close())
        if self._scratch is not None:
            self._scratch.delete()

    def _in_loop(self, action: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(action, self._loop).result()

    def _never_began(self, why: str) -> None:
        error = WorkerLost(f"no worker was started: {why}")
        self._loop.call_soon_threadsafe(self._engine.ended, error)

    def _end_unattended(self, seconds: float) -> None:
        """End this process, and the worker with its socket, when nobody has asked for so long."""
        while (left := self._attended + seconds - time.monotonic()) > 0:
            time.sleep(left)
        sys.stderr.write(f"nobody has asked for the worker for {seconds:g} s: it ends\n")
        os._exit(1)


def _settings(asked: RayOrder, scratch: Path) -> WorkerSettings:
    """Return the worker's settings with this machine's paths; InvalidArgument without the base."""
    settings, folder = asked.settings, Path(asked.cluster.data_dir)
    base = load_base_model(
        asked.base_model,
        folder / "cache",
        settings.base_model_name,
        expected_digest=settings.base_model_digest,
    )
    general = scratch / "general.jsonl"
    if asked.general_data:
        general.write_text(asked.general_data, "utf-8")
    return settings.model_copy(
        update={
            "base_model_path": str(base.path),
            "scratch_dir": str(scratch / "worker"),
            "cache_dir": str(folder / "cache" / "datasets"),
            "general_data": str(general) if asked.general_data else "",
        }
    )


class Engine:
    """The worker process, and what it has said that nobody has taken. All in one event loop."""

    def __init__(self) -> None:
        self._child: Child | None = None
        self._reading: asyncio.Task[None] | None = None
        self._lines: asyncio.Queue[bytes] = asyncio.Queue(_WAITING_LINES)
        self._printed: deque[str] = deque(maxlen=_PRINTED_LINES)
        self._lost = b""
        self._news = asyncio.Event()

    async def start(self, settings: WorkerSettings, memory: int | None) -> None:
        """Start the process; OSError or WorkerLost."""
        self._child = await spawn(
            _ENGINE, memory=memory, silence=settings.silence_seconds, echo=self._print
        )
        await self._child.write(encode(settings))
        self._reading = asyncio.create_task(self._read(self._child))

    async def send(self, line: bytes) -> None:
        """Give it a command, if it takes one."""
        if self._child is not None:
            # What has ended is told by what it has said.
            with suppress(WorkerLost):
                await self._child.write(line)

    async def news(self) -> Batch:
        """Wait for some time for what is new."""
        try:
            async with asyncio.timeout(_POLL_SECONDS):
                await self._news.wait()
        except TimeoutError:
            return [], [], b""
        lines: list[bytes] = []
        while not self._lines.empty() and sum(map(len, lines)) < _BATCH_BYTES:
            lines.append(self._lines.get_nowait())
        printed = list(self._printed)
        self._printed.clear()
        if not self._lines.empty():
            return lines, printed, b""
        if not self._lost:
            self._news.clear()
        return lines, printed, self._lost

    async def close(self) -> None:
        """End it, whatever it does, and wait until it is gone."""
        if self._reading is not None:
            self._reading.cancel()
        if self._child is not None:
            await self._child.close(_CLOSE_SECONDS)

    def ended(self, error: WorkerLost) -> None:
        """Let nothing follow what was said."""
        self._lost = encode(
            Lost(
                message=error.message,
                reason=error.reason,
                from_outside=error.from_outside,
                printed=error.printed,
            )
        )
        self._news.set()

    def _print(self, line: str) -> None:
        self._printed.append(line)
        self._news.set()

    async def _read(self, child: Child) -> None:
        try:
            while True:
                await self._lines.put(await child.read())
                self._news.set()
        except WorkerLost as error:
            self.ended(error)
