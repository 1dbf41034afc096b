"""Personal data in uploads: what is done about it, and what was done."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from tailorbird.errors import FailedPrecondition, InvalidArgument
from tailorbird.personal_data.modes import Mode
from tailorbird.personal_data.record_texts import (
    RecordTexts,
    as_line,
    has_a_key_twice,
)
from tailorbird.pieces import some
from tailorbird.turns import Turns
from trainer_svc.record import Record

if TYPE_CHECKING:
    from tailorbird.personal_data.scanner import Scanner

T = TypeVar("T")

_TURN_SECONDS = 0.1
_MAX_LINES = 100
_MAX_TOLD_LINES = 5
_MAX_TOLD = 400


class PersonalDataReport(Record):
    """What was found in an upload; see `tailorbird.tuning.v1.PersonalDataReport`."""

    mode: Mode
    records: int
    counts: dict[str, int]
    lines: dict[str, tuple[int, ...]]


class PersonalDataPolicy:
    """The operator's: `least` is done about every upload, what callers ask for may be stricter.

    `scanner` is called when the first upload is scanned, or by `load`.
    """

    def __init__(self, least: Mode, scanner: Callable[[], Scanner]) -> None:
        self._least = least
        self._make = scanner
        self._made: Scanner | None = None
        self._making = Lock()
        # One thread for all: whatever is scanned, uploads that are not do not wait, and one core
        # is left. Tenants have it in turn, a little at a time.
        self._thread = ThreadPoolExecutor(1, "personal-data")
        self._turns = Turns(1, waiting="uploads to be looked through", reason="UPLOADS_WAITING")

    def load(self) -> None:
        """Make the scanner now if every upload needs it; raises what making it does."""
        if self._least is not Mode.OFF:
            self._scanner()

    def chosen(self, asked: Mode | None) -> Mode:
        """Return what is done about an upload; InvalidArgument if less is asked than `least`."""
        if asked is None:
            return self._least
        if asked.is_weaker_than(self._least):
            raise InvalidArgument(
                "header.personal_data",
                f"{asked} is less than {self._least}, which is done about every upload here",
                reason="PERSONAL_DATA_MODE_TOO_WEAK",
                least=self._least,
            )
        return asked

    async def run(self, tenant: str, work: Generator[None, None, T]) -> T:
        """Do what belongs to a tenant's scan, in pieces of which others have theirs in between."""
        loop = asyncio.get_running_loop()
        while True:
            async with self._turns.turn(tenant):
                done = await loop.run_in_executor(self._thread, some, work, _TURN_SECONDS)
            if done is not None:
                return done.result

    def scan(self, mode: Mode, key: str) -> PersonalDataScan | None:
        """Begin an upload's scan, or None for OFF; FailedPrecondition without the extra."""
        return None if mode is Mode.OFF else PersonalDataScan(self._scanner(), mode, key)

    def _scanner(self) -> Scanner:
        with self._making:
            if self._made is None:
                self._made = self._make()
            return self._made


class PersonalDataScan:
    """Reads an upload's records in turn and rewrites those in which something is found."""

    def __init__(self, scanner: Scanner, mode: Mode, key: str) -> None:
        from tailorbird.personal_data.replacing import Replacer

        self._replacer = Replacer(scanner, mode, key)
        self._mode = mode
        self._records = 0
        self._counts: Counter[str] = Counter()
        self._lines: dict[str, list[int]] = {}

    def read(self, line: int, record: Any, source: bytes) -> Generator[None, None, bytes]:
        """Return the line to store for `record`, whose texts are changed where a mode rewrites.

        A record without findings is `source` itself, but for what stands in it unread: of a key
        that an object has twice the first value. FailedPrecondition (PATTERN_TIMED_OUT,
        SCAN_FAILED) tells the line.
        """
        texts = RecordTexts(record)
        try:
            replaced, counts = yield from self._replacer.replacing(texts.all, line)
        except FailedPrecondition as error:
            raise FailedPrecondition(
                f"line {line}: {error.message}", reason=error.reason, line=line, **error.metadata
            ) from None
        if counts:
            self._count(line, counts)
        if self._mode is Mode.SCAN or not (counts or texts.some_unread or has_a_key_twice(source)):
            return source
        texts.put(replaced)
        return as_line(record, source)

    def finish(self) -> PersonalDataReport:
        """Return what was found; InvalidArgument (PERSONAL_DATA_FOUND) where that is refused."""
        if self._mode is Mode.REFUSE and self._records:
            raise InvalidArgument(
                "chunk",
                f"personal data in {self._records} records: {self._told()}",
                reason="PERSONAL_DATA_FOUND",
                records=self._records,
            )
        return PersonalDataReport(
            mode=self._mode,
            records=self._records,
            counts=dict(sorted(self._counts.items())),
            lines={kind: tuple(lines) for kind, lines in sorted(self._lines.items())},
        )

    def _count(self, line: int, counts: Counter[str]) -> None:
        self._records += 1
        for kind, count in counts.items():
            self._counts[str(kind)] += count
            lines = self._lines.setdefault(str(kind), [])
            if len(lines) < _MAX_LINES:
                lines.append(line)

    def _told(self) -> str:
        told = ""
        for kind, count in self._counts.most_common():
            lines = self._lines[kind]
            some = ", ".join(map(str, lines[:_MAX_TOLD_LINES]))
            more = ", …" if len(lines) > _MAX_TOLD_LINES else ""
            part = f"{kind} {count}× (lines {some}{more})"
            if len(told) + len(part) > _MAX_TOLD:
                return f"{told}; and more"
            told = f"{told}; {part}" if told else part
        return told
