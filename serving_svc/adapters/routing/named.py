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
    present: bool = False
    """Whether the store was seen to have it."""


class NamedVersions:
    """At most `max_versions` of them; the least recently named leave first.

    A version on disk or in the engine is served without a wait for the store; so it is looked for
    when it is named for the first time in a while, and at each poll its tombstone is: one read.
    Those found deleted are remembered apart, where names of nothing do not push them out.
    """

    def __init__(
        self,
        registry: AdapterRegistry,
        retire: Callable[[VersionName], None],
        drop: Callable[[VersionName], None],
        reads: BoundedReads,
        clock: Callable[[], float],
        *,
        max_versions: int = _MAX_VERSIONS,
    ) -> None:
        self._registry = registry
        self._retire = retire
        self._drop = drop
        self._reads = reads
        self._clock = clock
        self._max_versions = max_versions
        self._named: OrderedDict[VersionName, _Named] = OrderedDict()
        self._deleted: OrderedDict[VersionName, None] = OrderedDict()
        self._checks: SingleFlight[VersionName, None] = SingleFlight()
        self._at_once = asyncio.Semaphore(_CONCURRENT_CHECKS)
        self._closed = False

    def use(self, version: VersionName) -> None:
        """Note a request for the version; NotFound (VERSION_DELETED) if it is deleted."""
        if version in self._deleted:
            self._deleted.move_to_end(version)
            raise NotFound(version, reason="VERSION_DELETED")
        named = self._named.get(version)
        if named is None:
            named = self._named[version] = _Named(0.0)
            if len(self._named) > self._max_versions:
                self._named.popitem(last=False)
            self._look(version)
        named.used = self._clock()
        self._named.move_to_end(version)

    def mark_deleted(self, version: VersionName) -> None:
        """Serve the version no more."""
        self._named.pop(version, None)
        if version in self._deleted:
            return
        self._deleted[version] = None
        if len(self._deleted) > self._max_versions:
            self._deleted.popitem(last=False)
        self._drop(version)
        _log.info("deleted version dropped", version=str(version))

    def poll(self, used_since: float) -> None:
        """Begin to look for tombstones of the versions named since then; forget the others."""
        for version, named in list(self._named.items()):
            if named.used < used_since:
                del self._named[version]
            else:
                self._look(version)

    async def close(self) -> None:
        """End the looks that are under way; no other begins."""
        self._closed = True
        await self._checks.close()

    def _look(self, version: VersionName) -> None:
        # More than are kept can wait only for a store that hangs: the polls catch up.
        if not self._closed and len(self._checks) < self._max_versions:
            self._checks.begin(version, partial(self._check, version))

    async def _check(self, version: VersionName) -> None:
        named = self._named.get(version)
        try:
            async with self._at_once:
                if named is not None and named.present:
                    await self._reads.run(self._registry.check_not_deleted(version))
                    return
                await self._reads.run(self._registry.check_present(version))
        except NotFound as error:
            if error.reason == "VERSION_DELETED":
                self.mark_deleted(version)
            else:
                # Not published yet, or a name of nothing: asked for again when it is named again.
                self._named.pop(version, None)
                self._retire(version)
        except Unavailable:
            # Told by `reads`; the next poll asks again.
            return
        else:
            if named is not None:
                named.present = True
