"""Which datasets hold a record, found by its digest in their indexes."""

from __future__ import annotations

import asyncio
import bisect
from codecs import BOM_UTF8
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from tailorbird.errors import (
    DataCorrupt,
    FailedPrecondition,
    InvalidArgument,
    InvalidRecord,
    NotFound,
)
from tailorbird.names import DatasetName, TenantName
from tailorbird.personal_data.modes import Mode
from tailorbird.records.formats import DatasetFormat, parse_record
from tailorbird.turns import Turns
from trainer_svc.datasets.dataset import Dataset
from trainer_svc.datasets.deleted import (
    DeletedData,
    deleted_data,
    deleted_ids,
    deleted_index,
    kept_key,
)
from trainer_svc.datasets.digests import record_digest
from trainer_svc.datasets.index import RecordIndex
from trainer_svc.datasets.personal_data import PersonalDataPolicy
from trainer_svc.datasets.store import DatasetStore

_MOST_LINES = 100
_MOST_BYTES = 256 * 2**20
"""Of digests that one page reads. Of one dataset they are at most 40 MiB."""
_PAGES = 2
"""Pages looked for at once: each holds one dataset's digests."""
_LIVE, _DELETED = "1", "2"
"""Begin a position: what is there is looked at before what was, which it may become meanwhile."""


class Unsearched(StrEnum):
    """Why it cannot be said that a dataset does not hold a record; see dataset.proto."""

    NO_INDEX = "NO_INDEX"
    INDEX_DAMAGED = "INDEX_DAMAGED"
    RECORDS_NOT_INDEXED = "RECORDS_NOT_INDEXED"
    SUBSTITUTED = "SUBSTITUTED"


@dataclass(frozen=True)
class Match:
    """A dataset that holds a record: on `lines`, the first 100 of `line_count`."""

    dataset: str
    sha256: str
    lines: tuple[int, ...]
    line_count: int
    delete_time: datetime | None = None
    redacted: bool = False


@dataclass
class Found:
    """A page of what was found; `unsearched` are datasets that may hold the record, and why.

    The next page goes on after `position`, "" after the last.
    """

    matches: list[Match] = field(default_factory=list)
    unsearched: list[tuple[str, Unsearched]] = field(default_factory=list)
    position: str = ""


class Sought:
    """A record that is looked for, or one of which only the digest is known.

    A record may be of several formats, and then has a digest in each; in a dataset it has that of
    the dataset's format.
    """

    def __init__(self, digest: bytes, line: bytes, policy: PersonalDataPolicy) -> None:
        self.digest = digest
        self._line = line
        self._policy = policy
        self._redacted: dict[DatasetFormat, bytes] = {}

    def digest_as(self, format_: DatasetFormat) -> bytes:
        """Return its digest in a dataset of a format."""
        if not self._line:
            return self.digest
        return record_digest(*self._as(format_)).record

    async def redacted(self, tenant: str, format_: DatasetFormat) -> bytes:
        """Return the digest of what REDACT makes of it: its own if it has no personal data.

        FailedPrecondition if this trainer cannot look for any.
        """
        if format_ not in self._redacted:
            work = self._redacting(format_)
            self._redacted[format_] = await self._policy.run(tenant, work)
        return self._redacted[format_]

    def _redacting(self, format_: DatasetFormat) -> Generator[None, None, bytes]:
        scan = self._policy.scan(Mode.REDACT, "")
        if not self._line or scan is None:
            return self.digest
        found, record = self._as(format_)
        yield from scan.read(1, record, self._line)
        return record_digest(found, record).record

    def _as(self, format_: DatasetFormat) -> tuple[DatasetFormat, Mapping[str, Any]]:
        """Return the record as a dataset of a format reads it, or as it is where none has it."""
        try:
            return parse_record(1, self._line, format_)
        except InvalidRecord:
            return parse_record(1, self._line)


@dataclass
class _Room:
    """What may still be looked at for a page."""

    looks: int
    size_bytes: int

    @property
    def is_left(self) -> bool:
        return self.looks > 0 and self.size_bytes > 0

    def take(self, size_bytes: int = 0) -> None:
        self.looks -= 1
        self.size_bytes -= size_bytes


@dataclass(frozen=True)
class _Place:
    """Digests to look at, and whose they are."""

    dataset: str
    sha256: str
    format: DatasetFormat
    mode: Mode
    index: RecordIndex | None
    delete_time: datetime | None = None

    def match(self, lines: list[int], *, redacted: bool) -> Match:
        """Return what is told of the lines that hold the record."""
        told = tuple(lines[:_MOST_LINES])
        return Match(self.dataset, self.sha256, told, len(lines), self.delete_time, redacted)


class RecordSearch:
    """Looks for a record in a tenant's datasets and in those that it has deleted."""

    def __init__(self, datasets: DatasetStore) -> None:
        self._datasets = datasets
        self._store = datasets.store
        self._searching = Turns(_PAGES, waiting="searches for a record", reason="SEARCHES_WAITING")

    def by_record(self, line: bytes) -> Sought:
        """Return what a record is looked for by; InvalidArgument if the line is none."""
        most = self._datasets.max_record_bytes
        if len(line) > most:
            raise InvalidArgument(
                "record", f"longer than {most} bytes", reason="RECORD_TOO_LONG", limit=most
            )
        # A record that was cut out of a file may have its byte order mark.
        line = line.removeprefix(BOM_UTF8)
        try:
            digest = record_digest(*parse_record(1, line)).record
        except InvalidRecord as error:
            raise InvalidArgument("record", error.text, reason=error.reason) from error
        return Sought(digest, line, self._datasets.policy)

    def by_digest(self, digest: bytes) -> Sought:
        """Return what a record is looked for by of which only the digest is known."""
        return Sought(digest, b"", self._datasets.policy)

    async def page(self, tenant: TenantName, sought: Sought, limit: int, after: str = "") -> Found:
        """Look at the next `limit` datasets after the position `after`, or fewer large ones.

        Data that one name had in turn are as many datasets. Two listings, for each dataset a read
        of its record and of its digests, and a listing for each name of deleted ones.
        """
        found, room, position = Found(), _Room(limit, _MOST_BYTES), after
        async with self._searching.turn(tenant.tenant):
            for place, file in await self._places(tenant, after):
                if not room.is_left:
                    found.position = position
                    break
                kind, _, id_ = place.partition("/")
                name = DatasetName(tenant.tenant, id_)
                if kind == _LIVE:
                    room.take(await self._live(name, sought, found))
                elif last := await self._deleted(name, file, sought, found, room):
                    found.position = f"{place}/{last}"
                    break
                position = place
        return found

    async def _places(self, tenant: TenantName, after: str) -> list[tuple[str, str]]:
        """Return where to look after a position, each with the file after which to begin there.

        A position is {kind}/{id}, or {kind}/{id}/{file} where not all of that was looked at.
        """
        places = [f"{_LIVE}/{each}" for each in await self._datasets.ids(tenant)]
        places += [f"{_DELETED}/{each}" for each in await deleted_ids(self._store, tenant)]
        begun, file = after, ""
        if after.count("/") > 1:
            begun, _, file = after.rpartition("/")
        begin = bisect.bisect_left(places, begun) if file else bisect.bisect_right(places, begun)
        return [(each, file if each == begun else "") for each in places[begin:]]

    async def _live(self, name: DatasetName, sought: Sought, found: Found) -> int:
        try:
            dataset = await self._datasets.get(name)
            index = await self._datasets.index(dataset)
        except NotFound:
            return 0
        except DataCorrupt as error:
            # Or it was deleted meanwhile, and is met again among those.
            if error.reason != "INDEX_MISSING" or await self._find(name) is not None:
                found.unsearched.append((str(name), Unsearched.INDEX_DAMAGED))
            return 0
        mode = dataset.personal_data_mode
        place = _Place(dataset.name, dataset.sha256, dataset.format, mode, index)
        await _look(place, sought, found)
        return 0 if index is None else index.size_bytes

    async def _deleted(
        self, name: DatasetName, after: str, sought: Sought, found: Found, room: _Room
    ) -> str:
        """Look at what a name had, from behind a file; return the last one if more are left."""
        live, last = await self._find(name), after
        data_of = [each for each in await deleted_data(self._store, name) if each.file > after]
        if not data_of:
            room.take()
        for data in data_of:
            if not room.is_left:
                return last
            last = data.file
            # It was uploaded again, or its deletion came no further.
            is_there = live is not None and data.key == kept_key(live)
            room.take(0 if is_there else data.size_bytes)
            if not is_there:
                await self._gone(name, data, sought, found)
        return ""

    async def _gone(
        self, name: DatasetName, data: DeletedData, sought: Sought, found: Found
    ) -> None:
        try:
            index = await deleted_index(self._store, data)
        except DataCorrupt:
            found.unsearched.append((str(name), Unsearched.INDEX_DAMAGED))
            return
        place = _Place(str(name), data.sha256, data.format, data.mode, index, data.delete_time)
        await _look(place, sought, found)

    async def _find(self, name: DatasetName) -> Dataset | None:
        try:
            return await self._datasets.get(name)
        except (NotFound, DataCorrupt):
            return None


async def _look(place: _Place, sought: Sought, found: Found) -> None:
    if place.index is None:
        found.unsearched.append((place.dataset, Unsearched.NO_INDEX))
        return
    plain = redacted = await asyncio.to_thread(sought.digest_as, place.format)
    known = True
    if place.mode.rewrites:
        try:
            tenant = DatasetName.parse(place.dataset).tenant
            redacted = await sought.redacted(tenant, place.format)
        except FailedPrecondition:
            known = False
    for digest in (plain, redacted) if place.mode is Mode.REDACT else (plain,):
        if lines := await asyncio.to_thread(place.index.lines_of, digest):
            found.matches.append(place.match(lines, redacted=digest != plain))
            return
    if not place.index.complete:
        found.unsearched.append((place.dataset, Unsearched.RECORDS_NOT_INDEXED))
    elif not known or (place.mode is Mode.SUBSTITUTE and redacted != plain):
        found.unsearched.append((place.dataset, Unsearched.SUBSTITUTED))
