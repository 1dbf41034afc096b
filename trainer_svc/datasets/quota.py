"""How much a tenant may have stored as datasets, and how much it has.

tenants/{tenant}/dataset_use/{dataset}/{bytes}-{records}    empty: its key says it all

Whoever stores a dataset writes its mark first and counts then, so that of two who store at the same
time, on whichever replicas, one at least has counted both: the limit is never passed. Both may be
refused where there was room for one. Counting takes one listing, of a page for each thousand
datasets; marks that a release without them left out are looked for every ten minutes, and made up
for by one read each.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from time import monotonic

import structlog

from tailorbird.errors import DataCorrupt, NotFound, ResourceExhausted, StoreUnavailable
from tailorbird.import_uri import EVERYONE
from tailorbird.names import DatasetName, TenantName
from tailorbird.object_store import ObjectInfo, ObjectStore, delete_folder
from trainer_svc.datasets.dataset import Dataset
from trainer_svc.datasets.stored import read_dataset

QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
_FOLDER = "dataset_use"
_MARK = re.compile(r"([^/]+)/(\d{1,18})-(\d{1,18})", re.ASCII)
_RETRY_SECONDS = 60.0
_READS = 16
_MAKE_UP_SECONDS = 600.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Use:
    """Bytes and records of datasets."""

    bytes: int = 0
    records: int = 0


@dataclass(frozen=True, slots=True)
class Mark:
    """What is counted of a dataset that is stored, or about to be; its object."""

    info: ObjectInfo
    dataset: str
    use: Use


class DatasetQuotas:
    """Holds tenants to their limits: `bytes_` and `records` by tenant; "*" is every other one's."""

    def __init__(
        self, store: ObjectStore, bytes_: Mapping[str, int], records: Mapping[str, int]
    ) -> None:
        self._store = store
        self._made_up: dict[TenantName, float] = {}
        """When marks were looked for last that are missing, by `monotonic`."""
        self._limits = {"dataset_bytes": bytes_, "dataset_records": records}

    @asynccontextmanager
    async def reserved(self, name: DatasetName, dataset: Dataset) -> AsyncIterator[None]:
        """Count a dataset that is stored in this block; if it is not, it does not count.

        Raises ResourceExhausted (QUOTA_EXCEEDED), StoreUnavailable.
        """
        tenant = TenantName(name.tenant)
        if not self._limited(tenant):
            yield
            return
        mark = _mark(name, dataset)
        await self._store.put(mark, b"")
        try:
            use = await self.use(tenant)
            self._check(tenant, use, Use(dataset.size_bytes, dataset.record_count))
            yield
        except BaseException:
            # One that stays counts until the collector finds that no dataset is behind it.
            with suppress(StoreUnavailable):
                await self._withdraw(name, mark)
            raise

    async def check(self, name: DatasetName, size_bytes: int) -> None:
        """Refuse what is announced to be too much before it is sent; raises as `reserved` does."""
        tenant = TenantName(name.tenant)
        if self._limited(tenant):
            use = await self.use(tenant)
            announced = Use(size_bytes, 0)
            self._check(tenant, Use(use.bytes + size_bytes, use.records), announced)

    async def released(self, name: DatasetName) -> None:
        """Count a dataset no more that is gone; StoreUnavailable."""
        await delete_folder(self._store, f"tenants/{name.tenant}/{_FOLDER}/{name.dataset}")

    async def use(self, tenant: TenantName) -> Use:
        """Return what the tenant has stored, and stores just now; StoreUnavailable."""
        now = monotonic()
        if now - self._made_up.get(tenant, -math.inf) > _MAKE_UP_SECONDS:
            await self._make_up(tenant)
            self._made_up[tenant] = now
        uses = [mark.use for mark in await marks_of(self._store, tenant)]
        return Use(sum(use.bytes for use in uses), sum(use.records for use in uses))

    async def _withdraw(self, name: DatasetName, mark: str) -> None:
        """Count no more what was not stored; it may have been, and only the reply was lost."""
        with suppress(NotFound, DataCorrupt):
            if _mark(name, await read_dataset(self._store, name)) == mark:
                return
        await self._store.delete(mark)

    async def _make_up(self, tenant: TenantName) -> None:
        counted = {mark.dataset for mark in await marks_of(self._store, tenant)}
        stored = await self._store.folders(f"{tenant}/datasets")
        missing = [DatasetName(tenant.tenant, id_) for id_ in stored if id_ not in counted]
        for at in range(0, len(missing), _READS):
            await asyncio.gather(*map(self._make_up_one, missing[at : at + _READS]))

    async def _make_up_one(self, name: DatasetName) -> None:
        try:
            dataset = await read_dataset(self._store, name)
        except NotFound:
            return
        except DataCorrupt as error:
            _log.warning("dataset not counted", dataset=str(name), error=error.message)
            return
        await self._store.put(_mark(name, dataset), b"")

    def _limited(self, tenant: TenantName) -> bool:
        return any(self._limit(quota, tenant) is not None for quota in self._limits)

    def _limit(self, quota: str, tenant: TenantName) -> int | None:
        limits = self._limits[quota]
        return limits.get(tenant.tenant, limits.get(EVERYONE))

    def _check(self, tenant: TenantName, use: Use, asked: Use) -> None:
        """Raise ResourceExhausted if `use`, of which `asked` is a part, is more than allowed."""
        for quota, used, more in (
            ("dataset_bytes", use.bytes, asked.bytes),
            ("dataset_records", use.records, asked.records),
        ):
            limit = self._limit(quota, tenant)
            if limit is not None and used > limit:
                what = quota.rpartition("_")[2]
                raise ResourceExhausted(
                    f"{tenant} has {used - more} {what} of datasets and may have {limit}: {more} "
                    "more are too many; delete datasets that no job needs",
                    reason=QUOTA_EXCEEDED,
                    retry_after=_RETRY_SECONDS,
                    quota=quota,
                    subject=str(tenant),
                    used=used - more,
                    asked=more,
                    limit=limit,
                )


async def marks_of(store: ObjectStore, tenant: TenantName) -> list[Mark]:
    """Return what is counted of a tenant; one listing. StoreUnavailable."""
    prefix = f"{tenant}/{_FOLDER}/"
    return [
        Mark(info, match[1], Use(int(match[2]), int(match[3])))
        async for info in store.objects(prefix)
        if (match := _MARK.fullmatch(info.key.removeprefix(prefix))) is not None
    ]


def _mark(name: DatasetName, dataset: Dataset) -> str:
    figures = f"{dataset.size_bytes}-{dataset.record_count}"
    return f"tenants/{name.tenant}/{_FOLDER}/{name.dataset}/{figures}"
