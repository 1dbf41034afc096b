"""Datasets: spooled to disk as they arrive, every line read, then stored whole or not at all.

tenants/{tenant}/datasets/{dataset}/data-{sha256}.jsonl            the bytes
tenants/{tenant}/datasets/{dataset}/index-{sha256}-{format}.bin    digests: see `index.py`
tenants/{tenant}/datasets/{dataset}/meta.json                      written last: its existence

The keys hold the data's digest, so that two uploads under one name can never mix.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from pydantic import ValidationError

from tailorbird.errors import (
    AlreadyExists,
    DataCorrupt,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from tailorbird.local_disk import is_disk_full
from tailorbird.names import DatasetName
from tailorbird.object_store import ObjectExists, ObjectStore
from tailorbird.personal_data.loading import load_scanner, scan_options
from tailorbird.personal_data.modes import Mode
from trainer_svc.datasets.dataset import Dataset
from trainer_svc.datasets.index import MAX_INDEX_BYTES, RecordIndex, read_index
from trainer_svc.datasets.leakage import Leakage, leakage
from trainer_svc.datasets.personal_data import PersonalDataPolicy
from trainer_svc.datasets.records import DatasetFormat
from trainer_svc.datasets.spool import Spool

_MAX_META_BYTES = 2**20
_COMPARISONS = 2
"""Comparisons of two datasets at once: each takes up to 300 MiB, and two seconds of a core."""
_PART_BYTES = 256 * 2**10

_P = ParamSpec("_P")
_T = TypeVar("_T")


class DatasetStore:
    """Takes uploads and finds datasets again.

    `spool_dir` holds uploads under way; what a lost process left there is deleted at start.
    """

    def __init__(
        self,
        store: ObjectStore,
        spool_dir: Path,
        max_bytes: int,
        max_record_bytes: int,
        policy: PersonalDataPolicy | None = None,
    ) -> None:
        self._policy = policy or PersonalDataPolicy(Mode.OFF, lambda: load_scanner(scan_options()))
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
        personal_data: Mode | None = None,
    ) -> Dataset:
        """Store what `chunks` hold under `name`; nothing is stored if this raises.

        Every record must be of `format_`, or where it is None of the first one's. Raises
        InvalidRecords with the first 100 bad lines, InvalidArgument for an empty, oversized or
        truncated file, AlreadyExists if other bytes have the name, or the same as another format.
        `personal_data` is what is asked to be done about it, None for the operator's; see
        `personal_data.py` for what that raises.
        """
        mode = self._policy.chosen(personal_data)
        if size_bytes is not None and size_bytes < 0:
            raise InvalidArgument("header.size_bytes", f"{size_bytes} is negative")
        self._check_size(size_bytes or 0)
        # Closing the file writes what is buffered: a full disk may show only then.
        with _full_disk_told(), tempfile.NamedTemporaryFile(dir=self._spool_dir) as file:
            scan = await self._work(mode, self._policy.scan, mode, str(name))
            spool = Spool(file, self._max_record_bytes, format_, scan)
            async for chunk in chunks:
                self._check_size(spool.size + len(chunk))
                for part in _parts(chunk):
                    await self._work(mode, spool.feed, part)
            dataset = await self._work(mode, spool.finish, name, size_bytes)
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

    async def _work(
        self, mode: Mode, do: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """Run `do` in a thread: that of scans, unless nothing is looked for."""
        if mode is Mode.OFF:
            return await asyncio.to_thread(do, *args, **kwargs)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._policy.thread, partial(do, *args, **kwargs))

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
        if not existing.is_same_upload(dataset):
            raise AlreadyExists(
                f"{name} exists with other content ({existing.format}, sha256 {existing.sha256},"
                f" personal data: {existing.personal_data_mode})",
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


def _parts(chunk: bytes) -> Iterator[bytes]:
    """Cut a chunk, so that uploads that are scanned take turns often."""
    for at in range(0, len(chunk), _PART_BYTES):
        yield chunk[at : at + _PART_BYTES]


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
