"""Tenants that were erased: what is known of it, and their data on every trainer's own disk.

housekeeping/erased/{tenant}.json   written by whoever erases: see `erasure.py`
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from datetime import datetime

from pydantic import AwareDatetime, Field, ValidationError

from tailorbird.errors import DataCorrupt, NotFound
from tailorbird.names import TenantName
from tailorbird.object_store import ObjectStore
from trainer_svc.housekeeping.collector import Stores
from trainer_svc.housekeeping.local_caches import entries_of
from trainer_svc.housekeeping.model import Count, Kind, Tally
from trainer_svc.record import Record

_FOLDER = "housekeeping/erased"
_MARKER = re.compile(rf"{_FOLDER}/([a-z0-9-]{{1,63}})\.json", re.ASCII)
_MAX_BYTES = 2**16
_SKEW_SECONDS = 86400.0
"""By which this machine's clock and the object store's may differ: what is made again is cheap."""


class Erasure(Record):
    """What was removed of a tenant, and what is kept so that serving obeys.

    Over all tries since the first, also those after one that came to its end: who asks what became
    of a tenant's data is told of all of it.
    """

    tenant: str
    begin_time: AwareDatetime
    end_time: AwareDatetime | None = None
    """When the last try came to its end. None: not all of it is gone yet."""
    tries: int = 0
    removed: dict[Kind, Count] = Field(default_factory=dict)
    tombstones: int = 0
    routes: int = 0


async def read_erasure(store: ObjectStore, tenant: TenantName, now: datetime) -> Erasure:
    """Return what is known of a tenant's erasure, as one that has not ended."""
    with suppress(NotFound, DataCorrupt, ValidationError):
        found = Erasure.model_validate_json(await store.get(_key(tenant), _MAX_BYTES))
        return found.model_copy(update={"end_time": None})
    return Erasure(tenant=str(tenant), begin_time=now)


async def write_erasure(store: ObjectStore, tenant: TenantName, erasure: Erasure) -> None:
    """Keep what is known of a tenant's erasure; StoreUnavailable."""
    await store.put(_key(tenant), erasure.model_dump_json().encode())


async def forget_erased(stores: Stores, tally: Tally) -> None:
    """Delete what this machine has cached of erased tenants' data; one listing."""
    async for info in stores.objects.objects(_FOLDER):
        if match := _MARKER.fullmatch(info.key):
            before = info.modified.timestamp() + _SKEW_SECONDS
            await forget_tenant(stores, match[1], tally, before)


async def forget_tenant(
    stores: Stores, tenant: str, tally: Tally, before: float = float("inf")
) -> None:
    """Delete what this machine has cached of a tenant's data, last used before a time."""
    for entry in await asyncio.to_thread(entries_of, stores.caches, tenant):
        if entry.used < before and await asyncio.to_thread(entry.delete):
            tally.add(Kind.LOCAL_CACHES, entry.files, entry.size)


def _key(tenant: TenantName) -> str:
    return f"{_FOLDER}/{tenant.tenant}.json"
