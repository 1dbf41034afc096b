"""The tier on local disk: versions fetched, checked and kept, through engine lives and restarts.

A version is fetched once however many ask for it, into a folder that no other version or fetch ever
has. While it is held it stays. What an earlier process left is used again once its digests and the
gate have been checked anew, without the store; if its bytes are not what they were it is fetched.
What was deleted meanwhile leaves as soon as the store says so.

The bytes on disk, those still being fetched included, never pass `max_bytes`: room is made, least
recently used first, before a fetch begins. Fetches and checks are bounded in number, shared out
over tenants, and apart from each other, so that a store that hangs delays nothing that is on disk.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from serving_svc.adapters.disk.download import VersionSource
from serving_svc.adapters.disk.index import (
    StoredVersion,
    delete,
    disk_errors,
    encode_record,
    folder_name,
    remember_use,
    scan,
)
from serving_svc.adapters.gate import NEEDED_FILES, ServedBase
from serving_svc.adapters.model import StagedAdapter
from serving_svc.adapters.refusals import Refusals
from serving_svc.adapters.single_flight import SingleFlight
from serving_svc.adapters.workers import Workers
from tailorbird.errors import (
    AdapterRefused,
    DataCorrupt,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from tailorbird.local_disk import is_disk_full
from tailorbird.manifest import AdapterManifest
from tailorbird.names import VersionName
from tailorbird.registry import AdapterRegistry
from tailorbird.turns import Turns

_log = structlog.get_logger(__name__)

_NOTE_USE_EVERY = timedelta(minutes=1)

# A byte that was lost or changed between the store and here shows as one of these.
_MAY_BE_THE_WAY = frozenset({"DIGEST_MISMATCH", "MANIFEST_INVALID"})


@dataclass(frozen=True, slots=True)
class HeldVersion:
    """A version on disk: size in bytes, how many hold it, last use, checked by this process."""

    version: VersionName
    size: int
    holds: int
    used: datetime
    checked: bool


@dataclass(slots=True)
class _Entry:
    version: VersionName
    used: datetime
    noted: datetime
    """The last use that the folder's record tells."""
    holds: int = 0
    stored: StoredVersion | None = None
    staged: StagedAdapter | None = None
    doomed: bool = False
    """To be deleted once nobody holds it."""


class AdapterDisk:
    """Versions under `folder`; see the module's text for what is guaranteed.

    `max_weights_bytes` is the largest adapter_model.safetensors accepted; at most `concurrent`
    fetches and as many checks of what an earlier process left run at a time; a store that sends
    nothing for `stall_seconds` counts as down. Nobody else writes to `folder`.
    """

    def __init__(
        self,
        registry: AdapterRegistry,
        base: ServedBase,
        refusals: Refusals,
        folder: Path,
        *,
        max_bytes: int,
        max_weights_bytes: int,
        concurrent: int,
        stall_seconds: float,
    ) -> None:
        self._refusals = refusals
        self._folder = folder.resolve()
        self._max_bytes = max_bytes
        # A fetch and a check each occupy one at most, and a deletion finds one free.
        self._workers = Workers(2 * concurrent + 1)
        self._source = VersionSource(
            registry,
            base,
            self._workers,
            max_weights_bytes=max_weights_bytes,
            stall_seconds=stall_seconds,
        )
        self._fetches = _turns(concurrent, "fetched")
        self._checks = _turns(concurrent, "checked")
        # Least recently used first.
        self._entries: OrderedDict[VersionName, _Entry] = OrderedDict()
        self._stagings: SingleFlight[VersionName, StagedAdapter] = SingleFlight()
        self._looks: SingleFlight[VersionName, None] = SingleFlight()
        self._deletions: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count(1)
        self._used_bytes = 0
        self._making_room = asyncio.Lock()

    async def open(self) -> None:
        """Take over what an earlier process left whole, and delete the rest.

        Raises Unavailable (LOCAL_DISK_FAILED) if the folder cannot be read.
        """
        with disk_errors():
            found = await self._workers.run(scan, self._folder)
        for stored in found:
            self._entries[stored.version] = _Entry(
                stored.version, stored.used, stored.used, stored=stored
            )
        self._used_bytes = sum(stored.size for stored in found)
        self._numbers = itertools.count(1 + max((stored.number for stored in found), default=0))
        await self._make_room(0)
        _log.info("adapters on disk", versions=len(self._entries), bytes=self._used_bytes)

    @asynccontextmanager
    async def hold(self, version: VersionName) -> AsyncIterator[StagedAdapter]:
        """Keep a version on disk inside the block, fetched and checked first if needed.

        Raises NotFound if it is not published or deleted, AdapterRefused if it failed a check, now
        or before, StoreUnavailable, ResourceExhausted (ADAPTER_DISK_FULL: all that is there is
        held; DISK_FULL: the disk itself is; ADAPTERS_WAITING: the tenant asks for too many),
        Unavailable if the disk fails or serving stops.
        """
        self._refusals.check(version)
        entry = self._entries.get(version)
        if entry is None:
            entry = self._entries[version] = _Entry(version, _now(), _now())
        # Counted first, so that nothing takes the version away once it is there.
        entry.holds += 1
        try:
            yield entry.staged or await self._stagings.run(version, partial(self._begin, entry))
        finally:
            self._release(entry)

    def forget(self, version: VersionName) -> None:
        """Delete a version from disk as soon as nobody holds it."""
        entry = self._entries.get(version)
        if entry is not None:
            entry.doomed = True
            self._delete_if_doomed(entry)

    def versions(self) -> Sequence[HeldVersion]:
        """Return what is on disk, most recently used first."""
        return [
            HeldVersion(
                entry.version,
                entry.stored.size,
                entry.holds,
                entry.used,
                checked=entry.staged is not None,
            )
            for entry in reversed(self._entries.values())
            if entry.stored is not None
        ]

    async def close(self) -> None:
        """End what is under way, and note when each version was last used."""
        if self._workers.closed:
            return
        await self._stagings.close()
        await self._looks.close()
        if self._deletions:
            await asyncio.wait(self._deletions)
        await self._workers.run(
            _note_uses,
            [(entry.stored.path, entry.used) for entry in self._entries.values() if entry.stored],
        )
        await self._workers.close()

    def _begin(self, entry: _Entry) -> Coroutine[Any, Any, StagedAdapter]:
        # A staging holds its entry itself: those who asked for it may all go.
        entry.holds += 1
        return self._stage(entry)

    async def _stage(self, entry: _Entry) -> StagedAdapter:
        try:
            with disk_errors():
                staged = await self._check_again(entry) or await self._fetch(entry)
        except AdapterRefused as refusal:
            self._refusals.record(entry.version, refusal)
            if not refusal.retryable:
                await self._delete(self._detach(entry))
            self._refusals.check(entry.version)
            raise
        finally:
            self._release(entry)
        return staged

    async def _check_again(self, entry: _Entry) -> StagedAdapter | None:
        """Check what an earlier process left; None if there is nothing that is whole."""
        stored = entry.stored
        if stored is None:
            return None
        async with self._checks.turn(entry.version.tenant):
            # Beside the check and behind it: a store that is down or hangs delays nothing.
            self._looks.begin(entry.version, partial(self._look_for_deletion, entry.version))
            try:
                probes = await self._source.check(stored.path)
                if entry.doomed:
                    raise NotFound(entry.version, reason="VERSION_DELETED")
                entry.staged = StagedAdapter(stored.version, stored.path, stored.size, probes)
                return entry.staged
            except (OSError, DataCorrupt) as error:
                problem = str(error)
            except AdapterRefused as refusal:
                # These bytes passed when they were fetched: it is the disk that changed them, or
                # does not give them.
                if refusal.reason != "DIGEST_MISMATCH" and not isinstance(
                    refusal.__cause__, OSError
                ):
                    raise
                problem = refusal.message
        _log.warning("version on disk is broken", version=str(entry.version), problem=problem)
        await self._delete(self._detach(entry))
        return None

    async def _look_for_deletion(self, version: VersionName) -> None:
        """Forget a version that was deleted while no process here heard of it."""
        try:
            await self._source.check_present(version)
        except NotFound:
            _log.info("version on disk is deleted", version=str(version))
            self.forget(version)
        except Unavailable as error:
            _log.info("not looked for a deletion", version=str(version), error=error.message)

    async def _fetch(self, entry: _Entry) -> StagedAdapter:
        async with self._fetches.turn(entry.version.tenant):
            try:
                return await self._fetch_anew(entry)
            except AdapterRefused as refusal:
                if refusal.reason not in _MAY_BE_THE_WAY:
                    raise
                _log.warning("fetched again", version=str(entry.version), problem=refusal.message)
            return await self._fetch_anew(entry)

    async def _fetch_anew(self, entry: _Entry) -> StagedAdapter:
        manifest = await self._source.manifest(entry.version)
        record = await self._workers.run(encode_record, manifest)
        size = sum(manifest.files[name].size for name in NEEDED_FILES) + len(record)
        if size > self._max_bytes:
            raise AdapterRefused(
                f"it needs {size} bytes on disk; at most {self._max_bytes} are used",
                reason="ADAPTER_TOO_LARGE",
            )
        await self._make_room(size)
        try:
            return await self._fetch_into_room(entry, manifest, record, size)
        except BaseException:
            self._used_bytes -= size
            raise

    async def _fetch_into_room(
        self, entry: _Entry, manifest: AdapterManifest, record: bytes, size: int
    ) -> StagedAdapter:
        try:
            return await self._fetch_once(entry, manifest, record, size)
        except OSError as error:
            if not is_disk_full(error):
                raise
            _log.warning("disk is full", version=str(entry.version), needed=size)
        # Something else fills the disk: what nobody needs gives way, whatever the bound.
        await self._evict(size)
        return await self._fetch_once(entry, manifest, record, size)

    async def _fetch_once(
        self, entry: _Entry, manifest: AdapterManifest, record: bytes, size: int
    ) -> StagedAdapter:
        version, number = entry.version, next(self._numbers)
        path = self._folder / folder_name(version, number)
        probes = await self._source.fetch(version, manifest, record, path)
        entry.used = entry.noted = _now()
        entry.stored = StoredVersion(version, number, path, size, entry.used)
        entry.staged = StagedAdapter(version, path, size, probes)
        return entry.staged

    async def _make_room(self, size: int) -> None:
        """Count `size` bytes as used, once they fit."""
        async with self._making_room:
            while (excess := self._used_bytes + size - self._max_bytes) > 0:
                if not await self._evict(excess):
                    raise ResourceExhausted(
                        f"the {self._max_bytes} bytes for adapters on disk are held by running "
                        "requests and loaded adapters",
                        reason="ADAPTER_DISK_FULL",
                        limit=self._max_bytes,
                    )
            self._used_bytes += size

    async def _evict(self, size: int) -> bool:
        """Delete versions that nobody holds until `size` bytes are free; False if there is none."""
        freed = 0
        while freed < size:
            victim = next((e for e in self._entries.values() if e.stored and not e.holds), None)
            if victim is None or victim.stored is None:
                break
            freed += victim.stored.size
            _log.info("version leaves the disk", version=str(victim.version))
            await self._delete(self._detach(victim))
        if not freed and self._deletions:
            await asyncio.wait(self._deletions)
            return True
        return freed > 0

    def _release(self, entry: _Entry) -> None:
        entry.holds -= 1
        if entry.stored is not None:
            entry.used = _now()
            self._entries.move_to_end(entry.version)
        self._delete_if_doomed(entry)
        if entry.stored is not None and entry.used - entry.noted > _NOTE_USE_EVERY:
            entry.noted = entry.used
            self._workers.submit(partial(remember_use, entry.stored.path, entry.used))
        self._drop_if_empty(entry)

    def _delete_if_doomed(self, entry: _Entry) -> None:
        if not entry.doomed or entry.holds or self._workers.closed:
            return
        task = asyncio.create_task(self._delete(self._detach(entry)))
        self._deletions.add(task)
        task.add_done_callback(self._deletions.discard)

    def _detach(self, entry: _Entry) -> StoredVersion | None:
        """Take an entry's folder out of the index: whoever asks from now on fetches it anew."""
        stored, entry.stored, entry.staged = entry.stored, None, None
        self._drop_if_empty(entry)
        return stored

    async def _delete(self, stored: StoredVersion | None) -> None:
        if stored is None:
            return
        try:
            await self._workers.run(delete, stored.path)
        finally:
            self._used_bytes -= stored.size

    def _drop_if_empty(self, entry: _Entry) -> None:
        if not entry.holds and entry.stored is None and self._entries.get(entry.version) is entry:
            del self._entries[entry.version]


def _note_uses(uses: Sequence[tuple[Path, datetime]]) -> None:
    for path, used in uses:
        remember_use(path, used)


def _now() -> datetime:
    return datetime.now(UTC)


def _turns(concurrent: int, what: str) -> Turns:
    return Turns(concurrent, waiting=f"adapters to be {what}", reason="ADAPTERS_WAITING")
