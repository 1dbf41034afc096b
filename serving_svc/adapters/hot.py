"""What was hot: kept in the object store, so that a replica whose disk is gone warms the same.

replicas/{profile}/{replica}/hot.json holds the versions in the engine, most recently used first. It
is a hint: nothing fails when it cannot be written or read, and a file of a replica that is gone is
passed over once it is a day old.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import structlog
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from serving_svc.adapters.disk import AdapterDisk
from serving_svc.adapters.refusals import Refusals
from tailorbird.errors import InvalidArgument, TailorbirdError
from tailorbird.names import VersionName
from tailorbird.object_store import ObjectInfo, ObjectStore

_log = structlog.get_logger(__name__)

_REPLICA = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?"
_MAX_AGE = timedelta(days=1)
_MAX_BYTES = 2**18
_MAX_VERSIONS = 256
_MAX_READ = 8
_STORE_SECONDS = 10.0


class _Hot(BaseModel):
    """The file; what a newer replica added stays in it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    write_time: AwareDatetime
    versions: tuple[str, ...]


def _utc_now() -> datetime:
    return datetime.now(UTC)


class HotList:
    """Writes this replica's hot versions, and finds those to warm at its start.

    `hot` gives the versions in the engine, most recently used first. `profile` and `replica` are
    parts of a key; InvalidArgument if they cannot be. The file is written when the list has
    changed, at most every `interval` seconds.
    """

    def __init__(
        self,
        store: ObjectStore,
        profile: str,
        replica: str,
        hot: Callable[[], Sequence[VersionName]],
        *,
        interval: float,
        clock: Callable[[], datetime] = _utc_now,
    ) -> None:
        for field, value in (("profile", profile), ("replica", replica)):
            if not re.fullmatch(_REPLICA, value) or ".." in value:
                raise InvalidArgument(field, f"{value[:80]!r} cannot be part of a key")
        self._store = store
        self._folder = f"replicas/{profile}"
        self._key = f"{self._folder}/{replica}/hot.json"
        self._hot = hot
        self._interval = interval
        self._clock = clock
        self._written: tuple[str, ...] = ()
        self._unknown: dict[str, object] = {}

    async def run(self) -> None:
        """Write the list as it changes, for ever."""
        while True:
            await asyncio.sleep(self._interval)
            await self.write()

    async def write(self) -> None:
        """Write the list if it has changed; a store that fails is tried again the next time.

        An empty list is not written: what was hot before is a better hint than nothing.
        """
        versions = tuple(map(str, self._hot()))[:_MAX_VERSIONS]
        if not versions or versions == self._written:
            return
        known = {"write_time": self._clock(), "versions": versions}
        data = _Hot.model_validate(self._unknown | known).model_dump_json().encode()
        try:
            async with asyncio.timeout(_STORE_SECONDS):
                await self._store.put(self._key, data)
        except (TailorbirdError, TimeoutError) as error:
            _log.info("hot list not written", error=str(error))
            return
        self._written = versions

    async def to_warm(self, disk: AdapterDisk, refusals: Refusals, count: int) -> list[VersionName]:
        """Return at most `count` versions to warm at the start, the hottest first.

        Those of this replica's own file; without one, of the newest file of its profile; without
        any, or when the store does not answer, those last used on local disk.
        """
        try:
            async with asyncio.timeout(_STORE_SECONDS):
                found = await self._read()
        except (TailorbirdError, TimeoutError) as error:
            _log.info("hot list not read", error=str(error))
            found = []
        found = found or [held.version for held in disk.versions()]
        return [version for version in found if refusals.get(version) is None][:count]

    async def _read(self) -> list[VersionName]:
        files = [info async for info in self._store.objects(self._folder) if self._counts(info)]
        # Its own first, whatever its age, then the newest.
        files.sort(key=lambda info: (info.key == self._key, info.modified), reverse=True)
        for info in files[:_MAX_READ]:
            try:
                hot = _Hot.model_validate_json(await self._store.get(info.key, _MAX_BYTES))
            except (TailorbirdError, ValidationError) as error:
                _log.info("hot list passed over", key=info.key, error=type(error).__name__)
                continue
            if info.key == self._key:
                self._unknown = hot.model_extra or {}
            versions = _versions(hot.versions)
            if versions:
                return versions
        return []

    def _counts(self, info: ObjectInfo) -> bool:
        if not re.fullmatch(rf"{re.escape(self._folder)}/[^/]+/hot\.json", info.key):
            return False
        return info.key == self._key or self._clock() - info.modified < _MAX_AGE


def _versions(names: Sequence[str]) -> list[VersionName]:
    found: dict[VersionName, None] = {}
    for name in names[:_MAX_VERSIONS]:
        try:
            found[VersionName.parse(name)] = None
        except InvalidArgument:
            continue
    return list(found)
