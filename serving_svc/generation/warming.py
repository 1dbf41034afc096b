"""Brings versions into the engine ahead of their traffic, through the same gate and slots."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

import structlog

from serving_svc.adapters.disk import AdapterDisk
from serving_svc.adapters.model import LoadedAdapter, StagedAdapter
from serving_svc.generation.life import Lives
from serving_svc.generation.scheduler import Ticket
from tailorbird.errors import TailorbirdError, Unavailable
from tailorbird.names import VersionName

_log = structlog.get_logger(__name__)

_RESTORE_SECONDS = 60.0


class Warmer:
    """Holds versions in the present life of the engine. Pins outlive it."""

    def __init__(self, lives: Lives, disk: AdapterDisk) -> None:
        self._lives = lives
        self._disk = disk
        self._pinned: set[VersionName] = set()

    @asynccontextmanager
    async def hold(
        self, version: VersionName, replaces: VersionName | None = None
    ) -> AsyncIterator[None]:
        """Keep `version` in the engine inside the block; if all slots are busy, one of them drains.

        Best that of `replaces`, the version that goes. Raises NotFound, AdapterRefused,
        ResourceExhausted, StoreUnavailable, Unavailable.
        """
        scheduler = self._lives.current().scheduler
        ticket = Ticket(version.tenant, version, swap=True, replaces=replaces)
        async with self._disk.hold(version):
            await scheduler.admit(ticket)
        try:
            yield
        finally:
            scheduler.leave(ticket)

    async def warm(self, version: VersionName, replaces: VersionName | None = None) -> None:
        """Put `version` into the engine; raises what `hold` raises."""
        async with self.hold(version, replaces):
            return

    def retire(self, version: VersionName) -> None:
        """Let a version that is no longer routed be the first to leave its slot."""
        with suppress(Unavailable):
            self._lives.current().scheduler.retire(version)

    def pin(self, version: VersionName) -> None:
        """Keep a version that is in the engine there, without traffic too.

        Raises FailedPrecondition (PINS_EXHAUSTED) if only one slot is left to the others.
        """
        self._lives.current().scheduler.pin(version)
        self._pinned.add(version)

    def unpin(self, version: VersionName) -> None:
        """Let it leave again. Not pinned: nothing happens."""
        self._pinned.discard(version)
        with suppress(Unavailable):
            self._lives.current().scheduler.unpin(version)

    def drop(self, version: VersionName) -> None:
        """Let go of a version that was deleted: its pin, its slot, its copies here."""
        self.unpin(version)
        self.retire(version)
        with suppress(Unavailable):
            self._lives.current().residency.forget(version)
        self._disk.forget(version)

    def is_pinned(self, version: VersionName) -> bool:
        """Tell whether it was pinned and not unpinned."""
        return version in self._pinned

    async def restore(self, versions: Iterable[VersionName], most: int) -> None:
        """Bring what is pinned and `versions`, `most` in all, into a new life of the engine.

        What fails is logged. More than there are slots would push each other out.
        Gives up after a minute: what is not back by then comes with its first request.
        """
        pinned = sorted(self._pinned)
        ordered = list(dict.fromkeys([*pinned, *versions]))[:most]
        with suppress(TimeoutError):
            async with asyncio.timeout(_RESTORE_SECONDS):
                await asyncio.gather(*map(self._restore, ordered))

    async def _restore(self, version: VersionName) -> None:
        try:
            async with self.hold(version):
                if version in self._pinned:
                    self._lives.current().scheduler.pin(version)
        except TailorbirdError as error:
            _log.warning("not warmed", version=str(version), error=error.message)

    @asynccontextmanager
    async def scratch(self, staged: StagedAdapter) -> AsyncIterator[LoadedAdapter]:
        """Keep a folder that is no version yet in the engine, in a slot, inside the block.

        Raises AdapterRefused (LOAD_FAILED), ResourceExhausted, EngineDied, Unavailable.
        """
        life = self._lives.current()
        version = staged.version
        life.loader.offer(staged)
        try:
            ticket = Ticket(version.tenant, version, swap=True)
            await life.scheduler.admit(ticket)
            try:
                yield life.loader.loaded(version)
            finally:
                life.scheduler.leave(ticket)
                await life.scheduler.discard(version)
        finally:
            life.loader.withdraw(version)
