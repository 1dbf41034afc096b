"""Which datasets' objects are garbage: those that no dataset's record names.

They are of an upload that never came to its end, of a deletion that did not, or of the slower of
two uploads under one name.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import datetime

from tailorbird.errors import DataCorrupt, NotFound
from tailorbird.names import DatasetName, TenantName
from tailorbird.object_store import ObjectInfo, ObjectStore
from trainer_svc.datasets.quota import Use, marks_of
from trainer_svc.datasets.stored import META, read_dataset
from trainer_svc.housekeeping.model import Garbage, Kind, newest

_MOST_FILES = 3
"""Of a dataset: its record, its data, its digests."""


async def suspects(store: ObjectStore, tenant: TenantName) -> list[DatasetName]:
    """Return datasets that may have more stored than they name; one listing. StoreUnavailable."""
    prefix = f"{tenant}/datasets/"
    found: defaultdict[str, set[str]] = defaultdict(set)
    async for info in store.objects(prefix):
        dataset, _, file = info.key.removeprefix(prefix).partition("/")
        found[dataset].add(file)
    return [
        DatasetName(tenant.tenant, dataset)
        for dataset, files in sorted(found.items())
        if META not in files or len(files) > _MOST_FILES
    ]


async def abandoned(store: ObjectStore, name: DatasetName, before: datetime) -> list[Garbage]:
    """Return a dataset's objects that its record does not name.

    One of them that was written since `before` may be of an upload under way, and keeps them all.
    Raises StoreUnavailable, and DataCorrupt if the record cannot be read.
    """
    objects: list[ObjectInfo] = [info async for info in store.objects(str(name))]
    named: set[str] = set()
    if any(info.key == f"{name}/{META}" for info in objects):
        dataset = await read_dataset(store, name)
        named = {f"{name}/{META}", dataset.data_key, dataset.index_key}
    left = [info for info in objects if info.key not in named]
    if not left or newest(left) >= before:
        return []
    return [Garbage(Kind.ABANDONED_UPLOADS, str(name), tuple(left))]


async def stale_marks(store: ObjectStore, tenant: TenantName, before: datetime) -> list[Garbage]:
    """Return what counts against a tenant's quota with nothing stored behind it, since `before`.

    Of an upload that did not come to its end, or a deletion that did not. StoreUnavailable.
    """
    marks = await marks_of(store, tenant)
    stored = {*await store.folders(f"{tenant}/datasets")} if marks else set()
    marked = Counter(mark.dataset for mark in marks)
    found = []
    for mark in marks:
        if mark.info.modified >= before:
            continue
        name = DatasetName(tenant.tenant, mark.dataset)
        if mark.dataset in stored and (
            marked[mark.dataset] == 1 or await _use_of(store, name) in {None, mark.use}
        ):
            continue
        found.append(Garbage(Kind.ABANDONED_UPLOADS, mark.info.key, (mark.info,)))
    return found


async def _use_of(store: ObjectStore, name: DatasetName) -> Use | None:
    """Return what a dataset takes; None where its record does not tell, or is not there yet."""
    try:
        dataset = await read_dataset(store, name)
    except (NotFound, DataCorrupt):
        return None
    return Use(dataset.size_bytes, dataset.record_count)
