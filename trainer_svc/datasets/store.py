"""Datasets: spooled to disk as they arrive, every line read, then stored whole or not at all.

tenants/{tenant}/datasets/{dataset}/data-{sha256}.jsonl            the bytes
tenants/{tenant}/datasets/{dataset}/index-{sha256}-{format}.bin    digests: see `index.py`
tenants/{tenant}/datasets/{dataset}/meta.json                      written last: its existence

The keys hold the data's digest, so that two uploads under one name can never mix.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from pydantic import ConfigDict, ValidationError

from tailorbird.errors import (
    AlreadyExists,
    DataCorrupt,
    InvalidArgument,
    InvalidRecord,
    NotFound,
    ResourceExhausted,
)
from tailorbird.local_disk import is_disk_full
from tailorbird.names import DatasetName
from tailorbird.object_store import ObjectExists, ObjectStore
from trainer_svc.datasets.index import MAX_INDEX_BYTES, RecordIndex, read_index
from trainer_svc.datasets.leakage import Leakage, leakage
from trainer_svc.datasets.lines import BadLines, Lines
from trainer_svc.datasets.records import DatasetFormat, ignored_keys, parse_upload
from trainer_svc.datasets.report.building import ReportBuilder
from trainer_svc.datasets.report.model import DatasetReport
from trainer_svc.record import Record

_MAX_IGNORED_KEYS = 32
_MAX_META_BYTES = 2**20
_COMPARISONS = 2
"""Comparisons of two datasets at once: each takes up to 300 MiB, and two seconds of a core."""


class Dataset(Record):
    """A stored dataset; see `tailorbird.tuning.v1.Dataset`. Fields of a newer writer are kept."""

    model_config = ConfigDict(extra="allow")

    name: str
    format: DatasetFormat
    record_count: int
    size_bytes: int
    sha256: str
    create_time: datetime
    ignored_fields: tuple[str, ...]
    report: DatasetReport | None = None
    """None of datasets that an earlier release stored: these have no digest index, either."""

    @property
    def data_key(self) -> str:
        """Key of the bytes in the object store."""
        return f"{self.name}/data-{self.sha256}.jsonl"

    @property
    def index_key(self) -> str:
        """Key of the digest index in the object store: of these bytes, read as this format."""
        return f"{self.name}/index-{self.sha256}-{self.format}.bin"


class DatasetStore:
    """Takes uploads and finds datasets again.

    `spool_dir` holds uploads under way; what a lost process left there is deleted at start.
    """

    def __init__(
        self, store: ObjectStore, spool_dir: Path, max_bytes: int, max_record_bytes: int
    ) -> None:
        self._store = store
        self._spool_dir = spool_dir
        self._max_bytes = max_bytes
        self._max_record_bytes = max_record_bytes
        self._comparing = asyncio.Semaphore(_COMPARISONS)
        spool_dir.mkdir(parents=True, exist_ok=True)
        for leftover in spool_dir.iterdir():
            leftover.unlink()

    async def upload(
        self,
        name: DatasetName,
        size_bytes: int | None,
        chunks: AsyncIterator[bytes],
        format_: DatasetFormat | None = None,
    ) -> Dataset:
        """Store what `chunks` hold under `name`; nothing is stored if this raises.

        Every record must be of `format_`, or where it is None of the first one's. Raises
        InvalidRecords with the first 100 bad lines, InvalidArgument for an empty, oversized or
        truncated file, AlreadyExists if other bytes have the name, or the same as another format.
        """
        if size_bytes is not None and size_bytes < 0:
            raise InvalidArgument("header.size_bytes", f"{size_bytes} is negative")
        self._check_size(size_bytes or 0)
        # Closing the file writes what is buffered: a full disk may show only then.
        with _full_disk_told(), tempfile.NamedTemporaryFile(dir=self._spool_dir) as file:
            spool = _Spool(file, self._max_record_bytes, format_)
            async for chunk in chunks:
                self._check_size(spool.size + len(chunk))
                await asyncio.to_thread(spool.feed, chunk)
            dataset = await asyncio.to_thread(spool.finish, name, size_bytes)
            index = await asyncio.to_thread(spool.report.index_file)
            return await self._publish(name, dataset, Path(file.name), index)

    async def get(self, name: DatasetName) -> Dataset:
        """Return a dataset; NotFound if there is none."""
        try:
            data = await self._store.get(f"{name}/meta.json", _MAX_META_BYTES)
        except NotFound as error:
            raise NotFound(name, reason="DATASET_NOT_FOUND") from error
        try:
            return Dataset.model_validate_json(data)
        except ValidationError as error:
            raise DataCorrupt(f"{name}/meta.json is not a dataset's record") from error

    async def index(self, dataset: Dataset) -> RecordIndex | None:
        """Return a dataset's digests, or None if its release stored none that this one reads.

        Raises DataCorrupt (INDEX_INVALID, INDEX_MISSING) and StoreUnavailable.
        """
        if dataset.report is None:
            return None
        try:
            data = await self._store.get(dataset.index_key, MAX_INDEX_BYTES)
        except NotFound as error:
            raise DataCorrupt(
                f"{dataset.index_key} is gone", reason="INDEX_MISSING", name=dataset.index_key
            ) from error
        return await asyncio.to_thread(read_index, data, dataset.index_key)

    async def leakage(self, training: Dataset, validation: Dataset) -> Leakage | None:
        """Compare two datasets by their digests; None if one has none. Raises what `index` does."""
        async with self._comparing:
            known, asked = await self.index(training), await self.index(validation)
            if known is None or asked is None:
                return None
            return await asyncio.to_thread(leakage, known, asked)

    async def _publish(
        self, name: DatasetName, dataset: Dataset, path: Path, index: bytes
    ) -> Dataset:
        existing = await self._find(name)
        if existing is None:
            meta = dataset.model_dump_json().encode()
            await self._store.upload(dataset.data_key, path)
            await self._store.put(dataset.index_key, index)
            try:
                await self._store.create(f"{name}/meta.json", meta)
            except ObjectExists:
                existing = await self.get(name)
                if existing.data_key != dataset.data_key:
                    await self._store.delete(dataset.data_key)
                if existing.index_key != dataset.index_key:
                    await self._store.delete(dataset.index_key)
            else:
                return dataset
        if (existing.sha256, existing.format) != (dataset.sha256, dataset.format):
            raise AlreadyExists(
                f"{name} exists with other content ({existing.format}, sha256 {existing.sha256})",
                reason="DATASET_EXISTS",
                name=name,
            )
        return existing

    async def _find(self, name: DatasetName) -> Dataset | None:
        try:
            return await self.get(name)
        except NotFound:
            return None

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise InvalidArgument(
                "chunk",
                f"{size} bytes or more are too many: at most {self._max_bytes} are accepted",
                reason="DATASET_TOO_LARGE",
                limit=self._max_bytes,
            )


@contextmanager
def _full_disk_told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise ResourceExhausted(
            "the trainer's disk is full", reason="DISK_FULL", retry_after=60
        ) from error


class _Spool:
    """Writes bytes to a file while it reads every line of them, in bounded memory."""

    def __init__(
        self, file: IO[bytes], max_record_bytes: int, format_: DatasetFormat | None
    ) -> None:
        self.size = 0
        self._file = file
        self._max_record_bytes = max_record_bytes
        self._sha256 = hashlib.sha256()
        self._lines = Lines(max_record_bytes)
        self._bad = BadLines()
        self._records = 0
        self._named = self._format = format_
        self._ignored: set[str] = set()
        self.report = ReportBuilder()

    def feed(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._sha256.update(chunk)
        self.size += len(chunk)
        for line, data in self._lines.feed(chunk):
            self._read(line, data)

    def finish(self, name: DatasetName, size_bytes: int | None) -> Dataset:
        if size_bytes is not None and size_bytes != self.size:
            raise InvalidArgument(
                "header.size_bytes",
                f"{size_bytes} bytes were announced and {self.size} came",
                reason="UPLOAD_TRUNCATED",
            )
        for line, data in self._lines.end():
            self._read(line, data)
        self._bad.check(self._records)
        if not self._records or self._format is None:
            raise InvalidArgument("chunk", "the file has no records", reason="DATASET_EMPTY")
        self._file.flush()
        return Dataset(
            name=str(name),
            format=self._format,
            record_count=self._records,
            size_bytes=self.size,
            sha256=self._sha256.hexdigest(),
            create_time=datetime.now(UTC),
            ignored_fields=tuple(sorted(self._ignored)[:_MAX_IGNORED_KEYS]),
            report=self.report.finish(),
        )

    def _read(self, line: int, data: bytes | None) -> None:
        if data is not None and not data.strip():
            return
        self._records += 1
        try:
            format_, record = self._parse(line, data)
        except InvalidRecord as error:
            self._bad.add(error)
            return
        self.report.add(line, format_, record)
        if len(self._ignored) < _MAX_IGNORED_KEYS:
            self._ignored |= {key[:64] for key in ignored_keys(format_, record)}

    def _parse(self, line: int, data: bytes | None) -> tuple[DatasetFormat, Mapping[str, Any]]:
        if data is None:
            raise InvalidRecord(
                line, f"longer than {self._max_record_bytes} bytes", reason="RECORD_TOO_LONG"
            )
        format_, record = parse_upload(line, data, self._format)
        self._format = self._format or format_
        if format_ is not self._format:
            why = (
                f"where header.format names {self._named}"
                if self._named
                else f"in a file whose first record is {self._format}: one format a file"
            )
            raise InvalidRecord(line, f"{format_} {why}", reason="MIXED_FORMATS")
        return format_, record
