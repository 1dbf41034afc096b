"""What is kept of a deleted dataset: the digests of its records, never their texts.

tenants/{tenant}/deleted_datasets/{dataset}/index-{sha256}-{format}-{mode}.bin    see `index.py`

So that the versions which saw a record are found when the dataset that had it is gone. The mode
is what was done about personal data, and the object's time that of the deletion.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from datetime import datetime

from tailorbird.errors import NotFound
from tailorbird.names import DatasetName, TenantName
from tailorbird.object_store import ObjectStore
from tailorbird.personal_data.modes import Mode
from tailorbird.records.formats import DatasetFormat
from trainer_svc.datasets.dataset import Dataset
from trainer_svc.datasets.index import MAX_INDEX_BYTES, RecordIndex, read_index

_FOLDER = "deleted_datasets"
_INDEX = re.compile(
    rf".*/index-([0-9a-f]{{64}})-({'|'.join(DatasetFormat)})-({'|'.join(Mode)})\.bin"
)


@dataclass(frozen=True)
class DeletedData:
    """Data that a dataset had until it was deleted; `key` is that of its digests."""

    sha256: str
    format: DatasetFormat
    mode: Mode
    key: str
    size_bytes: int
    """Of the digests."""
    delete_time: datetime

    @property
    def file(self) -> str:
        """Last part of the key."""
        return self.key.rpartition("/")[2]


async def keep_index(store: ObjectStore, dataset: Dataset) -> None:
    """Keep a dataset's digests, if there are any, from before it is deleted."""
    if dataset.report is None:
        return
    try:
        data = await store.get(dataset.index_key, MAX_INDEX_BYTES)
    except NotFound:
        return
    await store.put(kept_key(dataset), data)


def kept_key(dataset: Dataset) -> str:
    """Return the key of a dataset's digests once it is deleted."""
    file = dataset.index_key.rpartition("/")[2].removesuffix(".bin")
    folder = _folder(DatasetName.parse(dataset.name))
    return f"{folder}/{file}-{dataset.personal_data_mode}.bin"


async def deleted_index(store: ObjectStore, data: DeletedData) -> RecordIndex | None:
    """Return the digests; None if a later release wrote them, DataCorrupt if they are damaged."""
    read = await store.get(data.key, MAX_INDEX_BYTES)
    return await asyncio.to_thread(read_index, read, data.key)


async def deleted_ids(store: ObjectStore, tenant: TenantName) -> list[str]:
    """Return the ids of the tenant's deleted datasets, sorted; one listing."""
    return sorted(await store.folders(f"{tenant}/{_FOLDER}"))


async def deleted_data(store: ObjectStore, name: DatasetName) -> list[DeletedData]:
    """Return what a dataset had when it was deleted, each time it was; one listing."""
    found = [
        DeletedData(
            match[1], DatasetFormat(match[2]), Mode(match[3]), info.key, info.size, info.modified
        )
        async for info in store.objects(_folder(name))
        if (match := _INDEX.fullmatch(info.key)) is not None
    ]
    return sorted(found, key=lambda each: each.key)


def _folder(name: DatasetName) -> str:
    return f"tenants/{name.tenant}/{_FOLDER}/{name.dataset}"
