"""A file of records as its bytes come: every line is read and checked, in bounded memory. Pure."""

from __future__ import annotations

import hashlib
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tailorbird.errors import InvalidArgument, InvalidRecord
from tailorbird.records.foreign import LOOKED_AT, seems_to_be
from tailorbird.records.formats import DatasetFormat, ignored_keys, parse_upload
from tailorbird.records.lines import BadLines, Lines

MAX_FILE_BYTES = 2**30
MAX_RECORD_BYTES = 2**20
"""What a trainer accepts whose operator has not said otherwise."""

_MAX_IGNORED_KEYS = 32


@dataclass(frozen=True, slots=True)
class Line:
    """A line as it came, less its end; `data` is empty if it is bad, and has been told.

    `record` is None of a bad line and of a blank one.
    """

    number: int
    data: bytes
    end: bytes
    """The line's end: nothing after the last line of some files."""
    format: DatasetFormat | None = None
    record: Mapping[str, Any] | None = None


class FileReading:
    """Reads a file's lines in order; what is wrong with them is told once it has ended.

    Every record must be of `format_`, or where it is None of the first one's. A byte order mark
    before the first line belongs to no line.
    """

    def __init__(self, max_record_bytes: int, format_: DatasetFormat | None = None) -> None:
        self.size = 0
        """Bytes that have come."""
        self.records = 0
        """Lines that are not blank, bad ones among them."""
        self._max_record_bytes = max_record_bytes
        self._source = hashlib.sha256()
        self._lines = Lines(max_record_bytes)
        self._bad = BadLines()
        self._begins = b""
        self._mark: bytes | None = b""
        """What may be a byte order mark, as far as it has come; None once that is known."""
        self._named = self._format = format_
        self._ignored: set[str] = set()

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """Take the next bytes, and yield each line that ends in them."""
        self._source.update(chunk)
        self._begins += chunk[: LOOKED_AT - len(self._begins)]
        self.size += len(chunk)
        for number, data in self._lines.feed(self._unmarked(chunk)):
            yield self._read(number, data, b"\n")

    def end(self) -> Iterator[Line]:
        """Yield what is left after the last end of a line, if there is something."""
        for number, data in (*self._lines.feed(self._mark or b""), *self._lines.end()):
            yield self._read(number, data, b"")

    def check(self) -> DatasetFormat:
        """Return the format of what has come, once that has ended.

        Raises InvalidRecords with the first 100 bad lines, and InvalidArgument (DATASET_EMPTY).
        """
        self._bad.check(self.records, seems_to_be(self._begins))
        if not self.records or self._format is None:
            raise InvalidArgument("chunk", "the file has no records", reason="DATASET_EMPTY")
        return self._format

    @property
    def sha256(self) -> str:
        """Digest of the bytes that have come."""
        return self._source.hexdigest()

    @property
    def ignored_fields(self) -> tuple[str, ...]:
        """The top-level keys that nothing reads, sorted: the first of 32 that were seen."""
        return tuple(sorted(self._ignored)[:_MAX_IGNORED_KEYS])

    def _unmarked(self, chunk: bytes) -> bytes:
        """Return what has come less a mark at the file's beginning."""
        if self._mark is None:
            return chunk
        begins = self._mark + chunk
        if begins != BOM_UTF8 and BOM_UTF8.startswith(begins):
            self._mark = begins
            return b""
        self._mark = None
        return begins.removeprefix(BOM_UTF8)

    def _read(self, number: int, data: bytes | None, end: bytes) -> Line:
        if data is not None and not data.strip():
            return Line(number, data, end)
        self.records += 1
        if data is None:
            self._bad.add(self._too_long(number))
            return Line(number, b"", end)
        try:
            format_, record = self._parse(number, data)
        except InvalidRecord as error:
            self._bad.add(error)
            return Line(number, b"", end)
        if len(self._ignored) < _MAX_IGNORED_KEYS:
            self._ignored |= {key[:64] for key in ignored_keys(format_, record)}
        return Line(number, data, end, format_, record)

    def _too_long(self, line: int) -> InvalidRecord:
        what = f"longer than {self._max_record_bytes} bytes"
        return InvalidRecord(line, what, reason="RECORD_TOO_LONG")

    def _parse(self, line: int, data: bytes) -> tuple[DatasetFormat, Mapping[str, Any]]:
        format_, record = parse_upload(line, data, self._format)
        self._format = self._format or format_
        if format_ is not self._format:
            why = (
                f"where the format asked for is {self._named}"
                if self._named
                else f"in a file whose first record is {self._format}: one format a file"
            )
            raise InvalidRecord(line, f"{format_} {why}", reason="MIXED_FORMATS")
        return format_, record
