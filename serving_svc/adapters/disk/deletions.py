"""Versions that lie here and that nobody asks for: deleted ones leave, too.

One with traffic is looked at by the router's polls. The others are looked at here, slowly, so that
what was deleted, or erased with its tenant, does not stay on the disk or in memory until something
else needs the room.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

import structlog

from tailorbird.errors import NotFound, Unavailable
from tailorbird.names import VersionName
from tailorbird.registry import AdapterRegistry

_log = structlog.get_logger(__name__)

_READ_SECONDS = 10.0
_SHORTEST_PAUSE = 0.05


class Deletions:
    """Looks for the tombstones of all that `held` returns, once in about `interval` seconds.

    `deleted` is called with each that has one.
    """

    def __init__(
        self,
        registry: AdapterRegistry,
        held: Callable[[], Collection[VersionName]],
        deleted: Callable[[VersionName], None],
        *,
        interval: float,
    ) -> None:
        self._registry = registry
        self._held = held
        self._deleted = deleted
        self._interval = interval

    async def run(self) -> None:
        """Look for ever: one read after the other, spread over the interval."""
        while True:
            versions = self._held()
            pause = max(self._interval / (len(versions) + 1), _SHORTEST_PAUSE)
            await asyncio.sleep(pause)
            for version in versions:
                await self.look(version)
                await asyncio.sleep(pause)

    async def look(self, version: VersionName) -> None:
        """Look for a version's tombstone; a store that does not answer is asked the next time."""
        try:
            async with asyncio.timeout(_READ_SECONDS):
                await self._registry.check_not_deleted(version)
        except NotFound:
            self._deleted(version)
        except (Unavailable, TimeoutError) as error:
            _log.info("not looked for a deletion", version=str(version), error=str(error))
