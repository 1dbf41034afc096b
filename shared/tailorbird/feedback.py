"""Feedback in the object store: what serving writes of chosen answers, and the trainer reads.

tenants/{tenant}/feedback/{yyyymmdd}/{adapter}/{32 hex}.json   one record each, create-only

The day is that of recording, in UTC. It comes first, so that one listing counts what a tenant
recorded on a day, and a page of the newest reads the newest days alone. A writer has rid the texts
of personal data before; nothing here looks for it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from heapq import nlargest
from operator import attrgetter
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tailorbird.errors import AlreadyExists, DataCorrupt, InvalidArgument, NotFound
from tailorbird.manifest import Count, Instant
from tailorbird.names import AdapterName, FeedbackName, TenantName, VersionName
from tailorbird.object_store import ObjectExists, ObjectInfo, ObjectStore

GOOD, BAD = "good", "bad"
MAX_FEEDBACK_BYTES = 2 * 2**20
"""Of a stored record. A writer's own limit is half of it: replacing may make a text longer."""

_SCHEMA = 1
_READS_AT_ONCE = 16
_MAX_LOOKS = 1000
_MAX_DAYS = 100
"""Objects, and days, that are looked at for one page: then it ends early, with a token."""
_MAX_PAGE_BYTES = 2**20
_DAY = re.compile(r"[0-9]{8}", re.ASCII)
_POSITION = attrgetter("position")
_OF_A_CALL = {"name", "create_time", "subject"}
"""What differs where the same is asked for again."""


class _Stored(BaseModel):
    """Part of a record; what a newer writer adds is kept."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Function(_Stored):
    """A function and, as JSON text, its arguments."""

    name: str
    arguments: str


class Call(_Stored):
    """A call of a tool, as OpenAI's chats have it."""

    id: str
    type: str = "function"
    function: Function


class ToolFunction(_Stored):
    """A function that could be called; `parameters` is the JSON schema of its arguments."""

    name: str
    description: str = ""
    parameters: dict[str, Any] | None = None


class Tool(_Stored):
    """A tool, as OpenAI's chats have it."""

    type: str = "function"
    function: ToolFunction


class Turn(_Stored):
    """One message of a chat, as OpenAI's chats have it."""

    role: str
    content: str = ""
    tool_calls: tuple[Call, ...] = ()
    tool_call_id: str = ""


class Answer(_Stored):
    """What was answered, or should have been."""

    content: str = ""
    tool_calls: tuple[Call, ...] = ()


class FeedbackRecord(_Stored):
    """One answer that somebody chose to keep; see `tailorbird.tuning.v1.Feedback`."""

    schema_version: Annotated[int, Field(ge=1, le=_SCHEMA)] = _SCHEMA
    """Grows only when a reader of the present one would misread: such a record is not read."""
    name: str
    version: str
    route_generation: Annotated[int, Field(ge=0, lt=2**63)]
    create_time: Instant
    subject: str
    messages: tuple[Turn, ...] = ()
    """Of a chat; of a prompt none."""
    tools: tuple[Tool, ...] = ()
    prompt: str = ""
    answer: Answer
    correction: Answer | None = None
    rating: str = ""
    """GOOD, BAD, or none."""
    labels: dict[str, str] = Field(default_factory=dict)
    redactions: dict[str, Count] = Field(default_factory=dict)
    """What was replaced: how many findings of each kind."""

    def says_the_same_as(self, other: FeedbackRecord) -> bool:
        """Tell whether both were asked for alike, as far as known, whoever asked and when."""
        mine, theirs = (_known(each) for each in (self, other))
        return all(mine[key] == theirs[key] for key in mine.keys() - _OF_A_CALL)


@dataclass(frozen=True, slots=True)
class Period:
    """From `since` up to, but not at, `until`; None leaves it open."""

    since: datetime | None = None
    until: datetime | None = None

    def __contains__(self, time: datetime) -> bool:
        after = self.since is None or self.since <= time
        return after and (self.until is None or time < self.until)

    def has_day(self, day: str) -> bool:
        """Tell whether some of a day, YYYYMMDD, may be in it."""
        after = self.since is None or feedback_day(self.since) <= day
        return after and (self.until is None or day <= feedback_day(self.until))


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored record that is not read yet."""

    name: FeedbackName
    position: str
    """Where it stands in a listing: {day}/{time at which the store had it}/{record}."""
    size: int


@dataclass(frozen=True, slots=True)
class Found:
    """What reading an entry gave: a record; a problem; or neither, where it has gone."""

    entry: Entry
    record: FeedbackRecord | None = None
    problem: str = ""


@dataclass(slots=True)
class FeedbackPage:
    """Records, newest first; the names of those that cannot be read; where the next page begins."""

    records: list[FeedbackRecord] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    next_position: str = ""


class FeedbackStore:
    """Reads, creates and deletes records; every method raises what the store does."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    async def create(self, record: FeedbackRecord) -> FeedbackRecord:
        """Store a record, or find that it was, and return what is stored.

        AlreadyExists (FEEDBACK_EXISTS) if the name is another record's.
        """
        name = FeedbackName.parse(record.name)
        try:
            await self._store.create(feedback_key(name), record.model_dump_json().encode())
            return record
        except ObjectExists:
            return checked_same(await self.get(name), record)

    async def get(self, name: FeedbackName) -> FeedbackRecord:
        """Return a record; NotFound (FEEDBACK_NOT_FOUND), DataCorrupt (FEEDBACK_INVALID)."""
        try:
            data = await self._store.get(feedback_key(name), MAX_FEEDBACK_BYTES)
        except NotFound as error:
            raise NotFound(name, reason="FEEDBACK_NOT_FOUND") from error
        try:
            record = FeedbackRecord.model_validate_json(data)
        except ValidationError as error:
            # Its text and its cause quote what was read.
            what = error.errors(include_input=False, include_url=False)[0]["msg"]
            raise _invalid(name, what) from None
        if record.name != str(name):
            raise _invalid(name, "it names another")
        if not _is_version_of(name.adapter_name, record.version):
            raise _invalid(name, "its version is none of the adapter's")
        return record

    async def delete(self, name: FeedbackName) -> None:
        """Delete a record; NotFound (FEEDBACK_NOT_FOUND) if there is none. One is read or not."""
        try:
            await self._store.get(feedback_key(name), MAX_FEEDBACK_BYTES)
        except NotFound as error:
            raise NotFound(name, reason="FEEDBACK_NOT_FOUND") from error
        except DataCorrupt:
            # Too long to be read: it goes all the same.
            pass
        await self._store.delete(feedback_key(name))

    async def count(self, tenant: TenantName, day: str) -> int:
        """Return how many records a tenant has of a day, in one listing."""
        count = 0
        async for _ in self._store.objects(f"{tenant}/feedback/{day}"):
            count += 1
        return count

    async def days(self, tenant: TenantName, period: Period) -> list[str]:
        """Return the days of `period` on which a tenant recorded, ascending; one listing."""
        found = await self._store.folders(f"{tenant}/feedback")
        return [day for day in found if _DAY.fullmatch(day) and period.has_day(day)]

    async def entries(self, adapter: AdapterName, day: str) -> list[Entry]:
        """Return an adapter's records of a day, in the order of writing; one listing."""
        return sorted([one async for one in self._listed(adapter, day)], key=_POSITION)

    async def newest(self, adapter: AdapterName, day: str, after: str) -> list[Entry]:
        """Return a day's records behind position `after`, newest first: one more than is looked at.

        However many there are, no more than twice as many are held.
        """
        most, found = _MAX_LOOKS + 1, list[Entry]()
        async for entry in self._listed(adapter, day):
            if not after or entry.position < after:
                found.append(entry)
            if len(found) >= 2 * most:
                found = nlargest(most, found, _POSITION)
        return nlargest(most, found, _POSITION)

    async def read(self, entries: Sequence[Entry]) -> AsyncGenerator[Found]:
        """Yield what each entry is, in their order, some read at a time."""
        for at in range(0, len(entries), _READS_AT_ONCE):
            some = entries[at : at + _READS_AT_ONCE]
            for found in await asyncio.gather(*map(self._found, some)):
                yield found

    async def page(
        self,
        adapter: AdapterName,
        period: Period,
        size: int,
        wanted: Callable[[FeedbackRecord], bool],
        after: str = "",
    ) -> FeedbackPage:
        """Return at most `size` records that are `wanted`, newest first, behind position `after`.

        It ends early, with a position to go on from, at 1 MiB of records and where very much was
        looked at in vain (AIP-158 allows it).
        """
        filling = _Filling(size)
        last_day = after.partition("/")[0] or "9"
        days = await self.days(TenantName(adapter.tenant), period)
        for looked, day in enumerate(one for one in reversed(days) if one <= last_day):
            if looked == _MAX_DAYS:
                return filling.page
            async with aclosing(self.read(await self.newest(adapter, day, after))) as reading:
                async for found in reading:
                    if not filling.has_room_for(found.entry):
                        return filling.page
                    record = found.record
                    is_wanted = record and record.create_time in period and wanted(record)
                    filling.add(found, bool(is_wanted))
            filling.page.next_position = f"{day}/"
        filling.page.next_position = ""
        return filling.page

    async def _listed(self, adapter: AdapterName, day: str) -> AsyncIterator[Entry]:
        folder = f"tenants/{adapter.tenant}/feedback/{day}/{adapter.adapter}"
        async for info in self._store.objects(folder):
            entry = _entry(adapter, day, info)
            if entry is not None:
                yield entry

    async def _found(self, entry: Entry) -> Found:
        try:
            return Found(entry, await self.get(entry.name))
        except NotFound:
            return Found(entry)
        except DataCorrupt as error:
            return Found(entry, problem=error.message)


class _Filling:
    """A page as it is filled."""

    def __init__(self, size: int) -> None:
        self.page = FeedbackPage()
        self._size = size
        self._looks = 0
        self._bytes = 0

    def has_room_for(self, entry: Entry) -> bool:
        """Tell whether one more may be looked at; there always is room for the first record."""
        count = len(self.page.records)
        too_long = count and self._bytes + entry.size > _MAX_PAGE_BYTES
        return count < self._size and self._looks < _MAX_LOOKS and not too_long

    def add(self, found: Found, is_wanted: bool) -> None:
        """Take what was looked at."""
        self._looks += 1
        self.page.next_position = found.entry.position
        if found.problem:
            self.page.unreadable.append(str(found.entry.name))
        elif is_wanted and found.record is not None:
            self._bytes += found.entry.size
            self.page.records.append(found.record)


def _known(value: Any) -> Any:
    """Return a stored value as it is without what a newer writer added."""
    if isinstance(value, _Stored):
        return {key: _known(getattr(value, key)) for key in type(value).model_fields}
    return [*map(_known, value)] if isinstance(value, tuple) else value


def feedback_day(time: datetime) -> str:
    """Return the day of a time, in UTC, as keys have it."""
    # Of the year 999, too, eight digits.
    return time.astimezone(UTC).date().isoformat().replace("-", "")


def feedback_key(name: FeedbackName) -> str:
    """Return the key of a record in the object store."""
    return f"tenants/{name.tenant}/feedback/{name.day}/{name.adapter}/{name.record}.json"


def checked_same(stored: FeedbackRecord, asked: FeedbackRecord) -> FeedbackRecord:
    """Return `stored`; AlreadyExists (FEEDBACK_EXISTS) unless `asked` says the same."""
    if stored.says_the_same_as(asked):
        return stored
    raise AlreadyExists(
        f"{stored.name} was recorded with other content under this request_id",
        reason="FEEDBACK_EXISTS",
        name=stored.name,
    )


def _entry(adapter: AdapterName, day: str, info: ObjectInfo) -> Entry | None:
    """Return the record that an object is; None for what is no record's key."""
    file, _, kind = info.key.rpartition("/")[2].partition(".")
    try:
        name = FeedbackName.parse(f"{adapter}/feedback/{day}-{file}")
    except InvalidArgument:
        return None
    if kind != "json" or info.key != feedback_key(name):
        return None
    written = f"{info.modified.astimezone(UTC):%Y%m%dT%H%M%S.%f}"
    return Entry(name, f"{day}/{written}/{name.record}", info.size)


def _is_version_of(adapter: AdapterName, version: str) -> bool:
    try:
        return VersionName.parse(version).adapter_name == adapter
    except InvalidArgument:
        return False


def _invalid(name: FeedbackName, what: str) -> DataCorrupt:
    return DataCorrupt(f"{name} is not a feedback record: {what}", reason="FEEDBACK_INVALID")
