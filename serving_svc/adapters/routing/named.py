"""Versions that requests name: one that is deleted is noticed while it has traffic."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import structlog

from serving_svc.adapters.routing.reads import BoundedReads
from serving_svc.adapters.single_flight import SingleFlight
from tailorbird.errors import NotFound, Unavailable
from tailorbird.names import VersionName
from tailorbird.registry import AdapterRegistry

_log = structlog.get_logger(__name__)

_MAX_VERSIONS = 1024
_CONCURRENT_CHECKS = 16


@dataclass(slots=True)
class _Named:
    used: float
    deleted: bool = False


class NamedVersions:
    """At most `max_versions` of them; the least recently named leave first.

    A version on disk or in the engine is served without a look at the store; so each poll looks for
    the tombstones of those that were named lately: one read each.
    """

    def __init__(
        self,
        registry: AdapterRegistry,
        retire: Callable[[VersionName], None],
        reads: BoundedReads,
        clock: Callable[[], float],
        *,
        max_versions: int = _MAX_VERSIONS,
    ) -> None:
        self._registry = registry
        self._retire = retire
        self._reads = reads
        self._clock = clock
        self._max_versions = max_versions
        self._named: OrderedDict[VersionName, _Named] = OrderedDict()
        self._checks: SingleFlight[VersionName, None] = SingleFlight()
        self._at_once = asyncio.Semaphore(_CONCURRENT_CHECKS)

    def use(self, version: VersionName) -> None:
        """Note a request for the version; NotFound (VERSION_DELETED) if it is deleted."""
        named = self._note(version)
        if named.deleted:
            raise NotFound(version, reason="VERSION_DELETED")

    def mark_deleted(self, version: VersionName) -> None:
        """Serve the version no more."""
        named = self._note(version)
        if not named.deleted:
            named.deleted = True
            self._retire(version)
            _log.info("deleted version retired", version=str(version))

    def poll(self, used_since: float) -> None:
        """Begin to look for tombstones of the versions named since then; forget the others."""
        for version, named in list(self._named.items()):
            if named.deleted:
                continue
            if named.used < used_since:
                del self._named[version]
            else:
                self._checks.begin(version, partial(self._check, version))

    async def close(self) -> None:
        """End the looks that are under way."""
        await self._checks.close()

    def _note(self, version: VersionName) -> _Named:
        named = self._named.setdefault(version, _Named(0.0))
        named.used = self._clock()
        self._named.move_to_end(version)
        if len(self._named) > self._max_versions:
            self._named.popitem(last=False)
        return named

    async def _check(self, version: VersionName) -> None:
        try:
            async with self._at_once:
                await self._reads.run(self._registry.check_not_deleted(version))
        except NotFound:
            self.mark_deleted(version)
        except Unavailable:
            # Told by `reads`; the next poll asks again.
            return
