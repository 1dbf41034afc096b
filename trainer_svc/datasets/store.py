"""Datasets: spooled to disk as they arrive, every line read, then stored whole or not at all.

tenants/{tenant}/datasets/{dataset}/data-{sha256}.jsonl            the bytes
tenants/{tenant}/datasets/{dataset}/index-{sha256}-{format}.bin    digests: see `index.py`
tenants/{tenant}/datasets/{dataset}/meta.json                      written last: its existence
tenants/{tenant}/deleted_datasets/{dataset}/index-…                see `deleted.py`

The keys hold the data's digest, so that two uploads under one name can never mix. Whoever stores,
deletes, or begins to rely on a dataset does so in its turn; one process has a tenant's datasets.
"""

from __future__ import annotations

import asyncio
import bisect
import tempfile
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path

import structlog

from tailorbird.errors import (
    AlreadyExists,
    DataCorrupt,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from tailorbird.names import DatasetName, TenantName
from tailorbird.object_store import ObjectExists, ObjectStore, delete_folder, open_store
from tailorbird.personal_data.loading import load_scanner, scan_options
from tailorbird.personal_data.modes import Mode
from tailorbird.pieces import drained
from tailorbird.records.formats import DatasetFormat
from tailorbird.turns import Turns
from tailorbird.uninterrupted import uninterrupted
from trainer_svc.datasets.asked import Asked, id_of, named_as
from trainer_svc.datasets.dataset import Dataset
from trainer_svc.datasets.deleted import DeletedData, deleted_index, keep_index
from trainer_svc.datasets.full_disk import full_disk_told
from trainer_svc.datasets.index import MAX_INDEX_BYTES, RecordIndex, read_index
from trainer_svc.datasets.leakage import Leakage, leakage
from trainer_svc.datasets.locks import Locks
from trainer_svc.datasets.personal_data import PersonalDataPolicy
from trainer_svc.datasets.quota import DatasetQuotas
from trainer_svc.datasets.sources import DatasetSources
from trainer_svc.datasets.spool import Spool
from trainer_svc.datasets.stored import META, read_dataset

_log = structlog.get_logger(__name__)

_READS = 16
"""Datasets' records read at once."""
_COMPARISONS = 2
"""Comparisons of two datasets at once: each takes up to 300 MiB, and two seconds of a core.

Tenants have them in turn."""
_UPLOADS, _UPLOADS_OF_A_TENANT = 1024, 8
"""Uploads received at once: each has its file on the disk, and in memory its report."""
_PART_BYTES = 256 * 2**10


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
        sources: DatasetSources | None = None,
        quotas: DatasetQuotas | None = None,
        locks: Locks | None = None,
    ) -> None:
        self._quotas = quotas or DatasetQuotas(store, {}, {})
        self._sources = sources or DatasetSources({}, open_store)
        self._locks = locks or Locks()
        self.policy = policy or PersonalDataPolicy(Mode.OFF, lambda: load_scanner(scan_options()))
        self.store = store
        self._spool_dir = spool_dir
        self._max_bytes = max_bytes
        self.max_record_bytes = max_record_bytes
        self._comparing = Turns(
            _COMPARISONS, waiting="datasets to be compared", reason="COMPARISONS_WAITING"
        )
        self._receiving = Turns(
            _UPLOADS,
            of_a_tenant=_UPLOADS_OF_A_TENANT,
            waiting="uploads",
            reason="UPLOADS_WAITING",
        )
        spool_dir.mkdir(parents=True, exist_ok=True)
        for leftover in spool_dir.iterdir():
            leftover.unlink()

    async def receive(
        self,
        name: DatasetName,
        size_bytes: int | None,
        chunks: AsyncIterator[bytes],
        format_: DatasetFormat | None = None,
        personal_data: Mode | None = None,
    ) -> Dataset:
        """Store what a caller sends, as `upload` does; a few of a tenant, while others wait."""
        async with self._receiving.turn(name.tenant):
            return await self.upload(name, size_bytes, chunks, format_, personal_data)

    async def receive_file(
        self, tenant: TenantName, filename: str, chunks: AsyncIterator[bytes]
    ) -> Dataset:
        """Store what a caller sends as a file and names no dataset, as `receive` does.

        The dataset's id is made of the file's name, what is in it, and what is done about personal
        data: the same again is the same dataset.
        """
        mode = self.policy.chosen(None)

        def named(sha256: str) -> DatasetName:
            return DatasetName(tenant.tenant, id_of(filename, sha256, mode))

        asked = Asked(tenant.tenant, mode, f"{tenant}/{filename}", named, filename=filename)
        async with self._receiving.turn(tenant.tenant):
            return await self._take(chunks, asked)

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
        mode = self.policy.chosen(personal_data)
        if size_bytes is not None and size_bytes < 0:
            raise InvalidArgument("header.size_bytes", f"{size_bytes} is negative")
        self._check_size(size_bytes or 0)
        await self._check_announced(name, size_bytes or 0)
        asked = Asked(name.tenant, mode, str(name), lambda _: name, format_, size_bytes)
        return await self._take(chunks, asked)

    async def import_uri(
        self,
        tenant: TenantName,
        uri: str,
        field: str,
        dataset_id: str = "",
        format_: DatasetFormat | None = None,
        personal_data: Mode | None = None,
    ) -> Dataset:
        """Store the file that `uri` names, as `upload` does one; nothing is if this raises.

        Without an id, the dataset's is made of the URI, what is in the file, and what is done about
        personal data: the same again is the same dataset. Errors name `field` where it is the URI
        or the file that is wrong. Raises what `upload` and `DatasetSources.pieces` do.
        """
        with named_as(field):
            mode = self.policy.chosen(personal_data)
            if dataset_id:
                name = DatasetName(tenant.tenant, dataset_id)
                asked = Asked(
                    tenant.tenant, mode, str(name), lambda _: name, format_, source_uri=uri
                )
            else:
                asked = Asked(
                    tenant.tenant,
                    mode,
                    f"{tenant}/{uri}",
                    lambda sha256: DatasetName(tenant.tenant, id_of(uri, sha256, mode)),
                    format_,
                    source_uri=uri,
                )
            async with aclosing(self._sources.pieces(tenant, uri, field)) as pieces:
                return await self._take(pieces, asked)

    async def _take(self, chunks: AsyncIterator[bytes], asked: Asked) -> Dataset:
        mode = asked.mode
        # Closing the file writes what is buffered: a full disk may show only then.
        with full_disk_told(), tempfile.NamedTemporaryFile(dir=self._spool_dir) as file:
            scan = await asyncio.to_thread(self.policy.scan, mode, asked.key)
            spool = Spool(file, self.max_record_bytes, asked.format, scan)
            async for chunk in chunks:
                self._check_size(spool.size + len(chunk))
                for part in _parts(chunk):
                    await self._work(asked, spool.feed(part))
            await self._work(asked, spool.end(asked.size_bytes))
            name = asked.named(spool.source_sha256)
            dataset = await asyncio.to_thread(spool.finish, name)
            told = {"source_uri": asked.source_uri, "filename": asked.filename}
            dataset = dataset.model_copy(update=told)
            index = await asyncio.to_thread(spool.report.index_file)
            async with self.turn(name):
                return await self._publish(name, dataset, Path(file.name), index)

    def turn(self, *names: DatasetName) -> AbstractAsyncContextManager[None]:
        """Hold these datasets as they are, there or not, while the context lasts."""
        return self._locks.held(*map(str, names))

    async def get(self, name: DatasetName) -> Dataset:
        """Return a dataset; NotFound if there is none, DataCorrupt if its record is none of its."""
        return await read_dataset(self.store, name)

    async def page(
        self, tenant: TenantName, limit: int, after: str = ""
    ) -> tuple[list[Dataset], str]:
        """Return the datasets among the next `limit` ids after `after`, and the id to go on after.

        That is "" when there are no more. One listing, and a read for each id; an upload under way
        is none, and one whose record cannot be read is left out and logged. Reports are left out,
        too: in memory one is up to a megabyte.
        """
        ids = await self.ids(tenant)
        begin = bisect.bisect_right(ids, after)
        looked_at = ids[begin : begin + limit]
        names = [DatasetName(tenant.tenant, each) for each in looked_at]
        found: list[Dataset] = []
        for at in range(0, len(names), _READS):
            read = await asyncio.gather(*map(self._readable, names[at : at + _READS]))
            found += [each for each in read if each is not None]
        return found, looked_at[-1] if begin + limit < len(ids) else ""

    async def ids(self, tenant: TenantName) -> list[str]:
        """Return the ids that have something stored, sorted; one listing."""
        return sorted(await self.store.folders(f"{tenant}/datasets"))

    async def delete(self, name: DatasetName) -> None:
        """Delete a dataset, or the rest of one that was deleted in part; in its turn.

        The digests of its records are kept. NotFound if nothing is there. If this raises, the
        dataset is whole or not there, and another call deletes the rest.
        """
        try:
            await keep_index(self.store, await self.get(name))
        except NotFound:
            if not await self._has_rest(name):
                raise
        except DataCorrupt as error:
            _log.warning("digests not kept", dataset=str(name), error=error.message)
        # From here on it does not exist.
        await delete_folder(self.store, str(name), first=META)
        await self._quotas.released(name)

    async def _has_rest(self, name: DatasetName) -> bool:
        async for _ in self.store.objects(str(name)):
            return True
        return False

    async def _readable(self, name: DatasetName) -> Dataset | None:
        try:
            return (await self.get(name)).model_copy(update={"report": None})
        except NotFound:
            return None
        except DataCorrupt as error:
            _log.warning("dataset left out", dataset=str(name), error=error.message)
            return None

    async def index(self, dataset: Dataset) -> RecordIndex | None:
        """Return a dataset's digests, or None if its release stored none that this one reads.

        Raises DataCorrupt (INDEX_INVALID, INDEX_MISSING) and StoreUnavailable.
        """
        if dataset.report is None:
            return None
        try:
            data = await self.store.get(dataset.index_key, MAX_INDEX_BYTES)
        except NotFound as error:
            raise DataCorrupt(
                f"{dataset.index_key} is gone", reason="INDEX_MISSING", name=dataset.index_key
            ) from error
        return await asyncio.to_thread(read_index, data, dataset.index_key)

    async def leakage(self, training: Dataset | DeletedData, validation: Dataset) -> Leakage | None:
        """Compare two datasets by their digests; None if one has none. Raises what `index` does."""
        async with self._comparing.turn(DatasetName.parse(validation.name).tenant):
            if isinstance(training, DeletedData):
                known = await deleted_index(self.store, training)
            else:
                known = await self.index(training)
            asked = await self.index(validation)
            if known is None or asked is None:
                return None
            # It has its memory until it ends, whoever has hung up.
            return await uninterrupted(asyncio.to_thread(leakage, known, asked))

    async def _work(self, asked: Asked, work: Generator[None, None, None]) -> None:
        """Read what has come in a thread: that of scans, unless nothing is looked for."""
        if asked.mode is Mode.OFF:
            await asyncio.to_thread(drained, work)
        else:
            await self.policy.run(asked.tenant, work)

    async def _publish(
        self, name: DatasetName, dataset: Dataset, path: Path, index: bytes
    ) -> Dataset:
        existing = await self._find(name)
        if existing is None:
            async with self._quotas.reserved(name, dataset):
                return await self._store(name, dataset, path, index)
        return _same(existing, dataset)

    async def _store(
        self, name: DatasetName, dataset: Dataset, path: Path, index: bytes
    ) -> Dataset:
        await self.store.upload(dataset.data_key, path)
        await self.store.put(dataset.index_key, index)
        meta = dataset.model_dump_json().encode()
        try:
            await uninterrupted(self.store.create(f"{name}/{META}", meta))
        except ObjectExists:
            existing = await self.get(name)
            if existing.data_key != dataset.data_key:
                await self.store.delete(dataset.data_key)
            if existing.index_key != dataset.index_key:
                await self.store.delete(dataset.index_key)
            return _same(existing, dataset)
        return dataset

    async def _check_announced(self, name: DatasetName, size_bytes: int) -> None:
        try:
            await self._quotas.check(name, size_bytes)
        except ResourceExhausted:
            # What is stored already takes no room.
            if await self._find(name) is None:
                raise

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


def _same(existing: Dataset, dataset: Dataset) -> Dataset:
    """Return what is stored if it is what was to be; AlreadyExists otherwise."""
    if not existing.is_same_upload(dataset):
        raise AlreadyExists(
            f"{existing.name} exists with other content ({existing.format}, sha256 "
            f"{existing.sha256}, personal data: {existing.personal_data_mode})",
            reason="DATASET_EXISTS",
            name=existing.name,
        )
    return existing


def _parts(chunk: bytes) -> Iterator[bytes]:
    """Cut a chunk, so that uploads that are scanned take turns often."""
    for at in range(0, len(chunk), _PART_BYTES):
        yield chunk[at : at + _PART_BYTES]
