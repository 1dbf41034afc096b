"""An upload on its way to disk: every line is read, checked, and written as it is to be stored."""

from __future__ import annotations

import hashlib
from codecs import BOM_UTF8
from collections.abc import Generator, Mapping
from datetime import UTC, datetime
from typing import IO, Any

from tailorbird.errors import InvalidArgument, InvalidRecord
from tailorbird.names import DatasetName
from trainer_svc.datasets.dataset import Dataset
from trainer_svc.datasets.foreign import LOOKED_AT, seems_to_be
from trainer_svc.datasets.lines import BadLines, Lines
from trainer_svc.datasets.personal_data import PersonalDataScan
from trainer_svc.datasets.records import DatasetFormat, ignored_keys, parse_upload
from trainer_svc.datasets.report.building import ReportBuilder

_MAX_IGNORED_KEYS = 32


class Spool:
    """Writes an upload's lines to a file while it reads every one of them, in bounded memory.

    Every record must be of `format_`, or where it is None of the first one's. `scan` may change
    what is written of a line. A byte order mark before the first line is not written: whoever reads
    the file again finds lines and nothing else.
    """

    def __init__(
        self,
        file: IO[bytes],
        max_record_bytes: int,
        format_: DatasetFormat | None,
        scan: PersonalDataScan | None,
    ) -> None:
        self.size = 0
        """Bytes that have come."""
        self._file = file
        self._max_record_bytes = max_record_bytes
        self._scan = scan
        self._source = hashlib.sha256()
        self._sha256 = hashlib.sha256()
        self._stored = 0
        self._lines = Lines(max_record_bytes)
        self._bad = BadLines()
        self._begins = b""
        self._mark: bytes | None = b""
        """What may be a byte order mark, as far as it has come; None once that is known."""
        self._records = 0
        self._named = self._format = format_
        self._ignored: set[str] = set()
        self.report = ReportBuilder()

    def feed(self, chunk: bytes) -> Generator[None, None, None]:
        """Take the next bytes, in pieces. FailedPrecondition for a line that cannot be scanned."""
        self._source.update(chunk)
        self._begins += chunk[: LOOKED_AT - len(self._begins)]
        self.size += len(chunk)
        for line, data in self._lines.feed(self._unmarked(chunk)):
            self._keep((yield from self._read(line, data)) + b"\n")
            yield

    @property
    def source_sha256(self) -> str:
        """Digest of the bytes that have come."""
        return self._source.hexdigest()

    def end(self, size_bytes: int | None) -> Generator[None, None, None]:
        """Take the last line, in pieces. Raises what `feed` does.

        InvalidArgument (UPLOAD_TRUNCATED) if not `size_bytes` have come.
        """
        if size_bytes is not None and size_bytes != self.size:
            raise InvalidArgument(
                "header.size_bytes",
                f"{size_bytes} bytes were announced and {self.size} came",
                reason="UPLOAD_TRUNCATED",
            )
        for line, data in (*self._lines.feed(self._mark or b""), *self._lines.end()):
            self._keep((yield from self._read(line, data)))

    def finish(self, name: DatasetName) -> Dataset:
        """Return the record of what has come, once that has ended.

        Raises InvalidRecords with the first 100 bad lines, and InvalidArgument for a file that is
        empty, or has personal data where that is refused.
        """
        self._bad.check(self._records, seems_to_be(self._begins))
        if not self._records or self._format is None:
            raise InvalidArgument("chunk", "the file has no records", reason="DATASET_EMPTY")
        self._file.flush()
        found = None if self._scan is None else self._scan.finish()
        return Dataset(
            name=str(name),
            format=self._format,
            record_count=self._records,
            size_bytes=self._stored,
            sha256=self._sha256.hexdigest(),
            create_time=datetime.now(UTC),
            ignored_fields=tuple(sorted(self._ignored)[:_MAX_IGNORED_KEYS]),
            report=self.report.finish(),
            source_sha256=self.source_sha256,
            personal_data=found,
        )

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

    def _keep(self, data: bytes) -> None:
        self._file.write(data)
        self._sha256.update(data)
        self._stored += len(data)

    def _read(self, line: int, data: bytes | None) -> Generator[None, None, bytes]:
        """Check a line and return what is stored of it; of a bad one nothing."""
        if data is not None and not data.strip():
            return data
        self._records += 1
        if data is None:
            self._bad.add(self._too_long(line))
            return b""
        try:
            format_, record = self._parse(line, data)
        except InvalidRecord as error:
            self._bad.add(error)
            return b""
        # Before anything else sees the record: its texts are changed in place.
        stored = data
        if self._scan is not None:
            stored = yield from self._scan.read(line, record, data)
        self.report.add(line, format_, record)
        if len(self._ignored) < _MAX_IGNORED_KEYS:
            self._ignored |= {key[:64] for key in ignored_keys(format_, record)}
        return stored

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
