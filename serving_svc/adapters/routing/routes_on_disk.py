"""The last effective routes, on local disk: starting, or a store that is down, needs no store.

One small file an adapter, replaced as a whole. Files are written by a thread, some time after the
route took effect and only the latest of each adapter: losing one costs a look at the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from tailorbird.names import AdapterName
from tailorbird.routes import Route

_log = structlog.get_logger(__name__)

_DELAY_SECONDS = 0.5
_MAX_ADAPTERS = 20_000


@dataclass(frozen=True, slots=True)
class SavedRoute:
    """A route that was in effect; `of_this_life` if this process put it into effect."""

    route: Route
    of_this_life: bool


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")

    adapter: str
    life: str
    route: Route


class RoutesOnDisk:
    """The routes kept in `folder`, of the `max_adapters` adapters whose route moved last.

    `delay` is how long a route may wait to be written, in seconds.
    """

    def __init__(
        self, folder: Path, *, max_adapters: int = _MAX_ADAPTERS, delay: float = _DELAY_SECONDS
    ) -> None:
        self._folder = folder
        self._max_adapters = max_adapters
        self._delay = delay
        self._life = uuid.uuid4().hex
        # Newest first to be asked: what waits, then what is being written, then the file.
        self._pending: dict[AdapterName, Route | None] = {}
        self._writing: Mapping[AdapterName, Route | None] = {}
        self._writer: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        # One to write and one to read: a first request does not wait for a batch of writes.
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="routes-on-disk")
        self._failed = False

    def save(self, adapter: AdapterName, route: Route) -> None:
        """Keep `route` as the adapter's effective one."""
        self._put(adapter, route)

    def drop(self, adapter: AdapterName) -> None:
        """Keep no route of the adapter any more."""
        self._put(adapter, None)

    async def load(self, adapter: AdapterName) -> SavedRoute | None:
        """Return the adapter's route that was kept last, or None; what is corrupt is None."""
        for newer in (self._pending, self._writing):
            if adapter in newer:
                route = newer[adapter]
                return None if route is None else SavedRoute(route, of_this_life=True)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._read, adapter)

    async def close(self) -> None:
        """Write what waits; nothing may be kept after."""
        self._closing.set()
        if self._writer is not None:
            await asyncio.shield(self._writer)
        self._threads.shutdown(wait=False)

    def _put(self, adapter: AdapterName, route: Route | None) -> None:
        self._pending[adapter] = route
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_pending())

    async def _write_pending(self) -> None:
        loop = asyncio.get_running_loop()
        while self._pending:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._delay):
                    await self._closing.wait()
            self._writing, self._pending = self._pending, {}
            try:
                await loop.run_in_executor(self._threads, self._write, self._writing)
                self._failed = False
            except OSError as error:
                if not self._failed:
                    _log.warning("routes cannot be kept on disk", error=str(error))
                self._failed = True
            finally:
                self._writing = {}

    def _read(self, adapter: AdapterName) -> SavedRoute | None:
        try:
            kept = _File.model_validate_json(self._path(adapter).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            _log.warning("kept route passed over", adapter=str(adapter), error=type(error).__name__)
            return None
        if kept.adapter != str(adapter):
            _log.warning("kept route passed over", adapter=str(adapter), names=kept.adapter[:200])
            return None
        return SavedRoute(kept.route, kept.life == self._life)

    def _write(self, routes: Mapping[AdapterName, Route | None]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        failure: OSError | None = None
        for adapter, route in routes.items():
            try:
                self._write_one(self._path(adapter), adapter, route)
            except OSError as error:
                failure = error
        self._trim()
        if failure is not None:
            raise failure

    def _write_one(self, path: Path, adapter: AdapterName, route: Route | None) -> None:
        if route is not None:
            kept = _File(adapter=str(adapter), life=self._life, route=route)
            try:
                _replace(path, kept.model_dump_json().encode())
                return
            except OSError:
                # A full disk takes no file but lets go of one: better none than an old route.
                path.unlink(missing_ok=True)
                raise
        path.unlink(missing_ok=True)

    def _trim(self) -> None:
        files = [Path(entry) for entry in os.scandir(self._folder)]
        if len(files) > self._max_adapters:
            files.sort(key=lambda file: file.stat().st_mtime)
            # A tenth more than needed, so that it is not every batch that sorts them all.
            for file in files[: len(files) - self._max_adapters + self._max_adapters // 10]:
                file.unlink(missing_ok=True)

    def _path(self, adapter: AdapterName) -> Path:
        # Ids have no dot: no two adapters have one file.
        return self._folder / f"{adapter.tenant}.{adapter.adapter}.json"


def _replace(path: Path, data: bytes) -> None:
    """Write a file that is there as a whole or, after a power cut, as it was."""
    fresh = path.with_suffix(".new")
    try:
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
