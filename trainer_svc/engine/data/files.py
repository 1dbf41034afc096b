"""A dataset's own file on the worker's disk: downloaded once, and kept beside what it became."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tailorbird.errors import Aborted, NotFound
from tailorbird.names import DatasetName
from tailorbird.object_store import ObjectStore
from trainer_svc.datasets.index import MAX_INDEX_BYTES, RecordIndex, read_index
from trainer_svc.engine.data.cache import DatasetCache, Entry
from trainer_svc.engine.data.writing import check_digest
from trainer_svc.engine.elsewhere import in_thread
from trainer_svc.protocol import DatasetRef

_FILE = "data.jsonl"


@dataclass(frozen=True)
class FileKey:
    """Whose file it is, and which."""

    tenant: str
    dataset_sha256: str

    @property
    def path(self) -> str:
        """The entry's folder in the cache's."""
        return f"{self.tenant}/{self.dataset_sha256}-file"


class DatasetFile:
    """A dataset's file: it stays while this object lives."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry

    @property
    def path(self) -> Path:
        """Where it lies; it is not to be changed."""
        return self._entry.folder / _FILE


class DatasetFiles:
    """The files of datasets in `store`, kept in `cache` as long as that has room for them."""

    def __init__(self, store: ObjectStore, cache: DatasetCache) -> None:
        self._store = store
        self._cache = cache

    async def file(self, ref: DatasetRef, folder: Path) -> DatasetFile:
        """Return the file, which is downloaded into `folder` first if it is not there.

        Raises NotFound (DATASET_NOT_FOUND), StoreUnavailable, DataCorrupt (DATASET_CORRUPT) and
        Unavailable (DISK_FULL).
        """
        key = FileKey(DatasetName.parse(ref.name).tenant, ref.sha256)
        found = await in_thread(lambda _: self._cache.get(key))
        if found is not None:
            return DatasetFile(found)
        path = folder / "dataset.jsonl"
        try:
            await self._store.download(ref.key, path)
        except NotFound as error:
            raise NotFound(ref.name, reason="DATASET_NOT_FOUND") from error
        try:
            return DatasetFile(await in_thread(lambda stop: self._kept(key, ref, path, stop)))
        finally:
            path.unlink(missing_ok=True)

    async def index(self, key: str) -> RecordIndex | None:
        """Return a dataset's digests, or None if `key` is "" or another release wrote them.

        They are not kept. Raises NotFound, DataCorrupt and StoreUnavailable.
        """
        if not key:
            return None
        data = await self._store.get(key, MAX_INDEX_BYTES)
        return await in_thread(lambda _: read_index(data, key))

    def _kept(self, key: FileKey, ref: DatasetRef, path: Path, stop: Callable[[], bool]) -> Entry:
        def check() -> None:
            if stop():
                raise Aborted("the job was stopped while its data was read", reason="STOPPED")

        def build(entry: Path) -> None:
            check_digest(path, ref)
            shutil.move(path, entry / _FILE)

        return self._cache.get_or_make(key, build, check)
