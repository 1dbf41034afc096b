"""An upload on its way to disk: every line is read, checked, and written as it is to be stored."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from datetime import UTC, datetime
from typing import IO

from tailorbird.errors import InvalidArgument
from tailorbird.names import DatasetName
from tailorbird.records.formats import DatasetFormat
from tailorbird.records.reading import FileReading, Line
from trainer_svc.datasets.dataset import Dataset
from trainer_svc.datasets.personal_data import PersonalDataScan
from trainer_svc.datasets.report.building import ReportBuilder


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
        self._file = file
        self._scan = scan
        self._reading = FileReading(max_record_bytes, format_)
        self._sha256 = hashlib.sha256()
        self._stored = 0
        self.report = ReportBuilder()

    def feed(self, chunk: bytes) -> Generator[None, None, None]:
        """Take the next bytes, in pieces. FailedPrecondition for a line that cannot be scanned."""
        for line in self._reading.feed(chunk):
            self._keep((yield from self._changed(line)) + line.end)
            yield

    @property
    def size(self) -> int:
        """Bytes that have come."""
        return self._reading.size

    @property
    def source_sha256(self) -> str:
        """Digest of the bytes that have come."""
        return self._reading.sha256

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
        for line in self._reading.end():
            self._keep((yield from self._changed(line)) + line.end)

    def finish(self, name: DatasetName) -> Dataset:
        """Return the record of what has come, once that has ended.

        Raises InvalidRecords with the first 100 bad lines, and InvalidArgument for a file that is
        empty, or has personal data where that is refused.
        """
        format_ = self._reading.check()
        self._file.flush()
        found = None if self._scan is None else self._scan.finish()
        return Dataset(
            name=str(name),
            format=format_,
            record_count=self._reading.records,
            size_bytes=self._stored,
            sha256=self._sha256.hexdigest(),
            create_time=datetime.now(UTC),
            ignored_fields=self._reading.ignored_fields,
            report=self.report.finish(),
            source_sha256=self.source_sha256,
            personal_data=found,
        )

    def _keep(self, data: bytes) -> None:
        self._file.write(data)
        self._sha256.update(data)
        self._stored += len(data)

    def _changed(self, line: Line) -> Generator[None, None, bytes]:
        """Return what is stored of a line; of a bad one nothing."""
        if line.record is None or line.format is None:
            return line.data
        # Before anything else sees the record: its texts are changed in place.
        stored = line.data
        if self._scan is not None:
            stored = yield from self._scan.read(line.number, line.record, line.data)
        self.report.add(line.number, line.format, line.record)
        return stored
