"""One round of housekeeping over all tenants, one after the other.

The job store is asked before anything of a tenant is deleted: if it does not answer, the round ends
there. What fails of one tenant, or at one job or adapter, is noted and passed over. Times are the
database's and the object store's: a trainer whose clock is wrong deletes nothing too early.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog

from tailorbird.errors import InvalidArgument, NotFound, TailorbirdError
from tailorbird.names import AdapterName, DatasetName, JobName, TenantName
from tailorbird.object_store import ObjectStore, delete_folder
from tailorbird.registry import AdapterRegistry
from trainer_svc.housekeeping.checkpoints import checkpoint_garbage
from trainer_svc.housekeeping.hot_lists import hot_list_garbage
from trainer_svc.housekeeping.local_caches import unused_entries
from trainer_svc.housekeeping.model import Collected, Kind, Rules, Tally
from trainer_svc.housekeeping.partial_files import partial_files
from trainer_svc.housekeeping.removal import Removal
from trainer_svc.housekeeping.uploads import abandoned, stale_marks, suspects
from trainer_svc.housekeeping.versions import deleted, job_of, uncommitted, version_files
from trainer_svc.jobs.database import Database, DatabaseUnavailable
from trainer_svc.jobs.housekeeping import (
    count_rows,
    delete_job,
    ended_jobs,
    standings,
    store_time,
    tenants_of,
)

_log = structlog.get_logger(__name__)

_LONGEST_SECONDS = 600.0
"""For one tenant; what it does not come to waits for the next round."""
_MOST_FAILED_TENANTS = 5
"""In a row: then it is the store that fails, and not they."""
_JOBS_A_PAGE = 200

Turn = Callable[[DatasetName], AbstractAsyncContextManager[None]]


@dataclass(frozen=True)
class Stores:
    """Where there is something to keep in order.

    `turn` holds a dataset as it is, as far as this process can; `caches` is this machine's folder
    of tokenised datasets, `folder` that of an object store in a folder.
    """

    database: Database
    objects: ObjectStore
    turn: Turn
    caches: Path
    folder: Path | None = None


async def collect(stores: Stores, rules: Rules, *, dry_run: bool) -> Collected:
    """Remove what nobody needs any more; with `dry_run` only count it.

    Raises DatabaseUnavailable, and StoreUnavailable if the object store's tenants cannot be listed:
    what was removed until then is.
    """
    begin = await store_time(stores.database)
    round_ = _Round(stores, rules, begin, dry_run=dry_run)
    await round_.run()
    tally = round_.tally
    return Collected(
        dry_run=dry_run,
        begin_time=begin,
        end_time=await store_time(stores.database),
        removed=tally.removed,
        failures=tuple(tally.failures),
        failure_count=tally.failure_count,
    )


async def collect_caches(stores: Stores, rules: Rules, tally: Tally, *, dry_run: bool) -> None:
    """Remove what nothing on this machine has used for long."""
    for entry in await asyncio.to_thread(unused_entries, stores.caches, rules.local_caches):
        if dry_run or await asyncio.to_thread(entry.delete):
            tally.add(Kind.LOCAL_CACHES, entry.files, entry.size)


async def remove_partial(
    stores: Stores,
    tenant: TenantName,
    tally: Tally,
    before: datetime | None = None,
    *,
    dry_run: bool = False,
) -> None:
    """Remove a tenant's partial files, if given those not written since, from a store's folder."""
    if stores.folder is None:
        return
    for file in await asyncio.to_thread(partial_files, stores.folder / str(tenant), before):
        if not dry_run:
            await asyncio.to_thread(file.delete)
        tally.add(Kind.PARTIAL_FILES, 1, file.size)


class _Round:
    def __init__(self, stores: Stores, rules: Rules, now: datetime, *, dry_run: bool) -> None:
        self.tally = Tally()
        self._stores = stores
        self._database = stores.database
        self._store = stores.objects
        self._turn = stores.turn
        self._registry = AdapterRegistry(self._store)
        self._rules = rules
        self._now = now
        self._dry_run = dry_run
        self._removal = Removal(self._store, self.tally, dry_run=dry_run)

    async def run(self) -> None:
        caches = collect_caches(self._stores, self._rules, self.tally, dry_run=self._dry_run)
        await self._noted("caches", caches)
        await self._noted("replicas", self._hot_lists())
        stored = await self._store.folders("tenants")
        tenants = [*{*stored, *await tenants_of(self._database)}]
        # Where a round ends early, it is not always the same ones that wait.
        random.shuffle(tenants)
        failed = 0
        for tenant in tenants:
            with suppress(InvalidArgument):
                name = TenantName.parse(f"tenants/{tenant}")
                failed = 0 if await self._noted(str(name), self._tenant(name)) else failed + 1
            if failed == _MOST_FAILED_TENANTS:
                self.tally.failed("tenants", f"given up after {failed} in a row that failed")
                return

    async def _noted(self, where: str, work: Awaitable[None]) -> bool:
        """Do some of the work; what fails is noted. Tell whether it came to its end."""
        try:
            async with asyncio.timeout(_LONGEST_SECONDS):
                await work
        except DatabaseUnavailable:
            raise
        except (TailorbirdError, OSError, TimeoutError) as error:
            self.tally.failed(where, str(error) or type(error).__name__)
            return False
        except Exception as error:
            _log.exception("not collected", where=where)
            self.tally.failed(where, type(error).__name__)
            return False
        return True

    async def _tenant(self, tenant: TenantName) -> None:
        await self._ended_jobs(tenant)
        await self._checkpoints(tenant)
        for adapter in await self._registry.adapter_names(tenant):
            await self._noted(str(adapter), self._versions(tenant, adapter))
        for dataset in await suspects(self._store, tenant):
            await self._noted(str(dataset), self._uploads(dataset))
        await self._noted(f"{tenant}/dataset_use", self._marks(tenant))
        before = self._now - self._rules.grace
        await remove_partial(self._stores, tenant, self.tally, before, dry_run=self._dry_run)

    async def _ended_jobs(self, tenant: TenantName) -> None:
        """Delete the rows of jobs that ended long ago, and before them what is left of each."""
        if self._rules.ended_jobs is None:
            return
        before, after = self._now - self._rules.ended_jobs, ""
        while names := await ended_jobs(self._database, tenant, before, _JOBS_A_PAGE, after):
            for name in names:
                await self._noted(str(name), self._ended_job(name))
            after = names[-1].job

    async def _ended_job(self, name: JobName) -> None:
        rows = await count_rows(self._database, name)
        if not self._dry_run:
            await delete_folder(self._store, str(name))
            try:
                rows = await delete_job(self._database, name)
            except NotFound:
                # Somebody else was first, and counts it.
                return
        self.tally.add(Kind.ENDED_JOBS, rows, 0)

    async def _checkpoints(self, tenant: TenantName) -> None:
        ids = await self._store.folders(f"{tenant}/jobs")
        known = await standings(self._database, tenant, ids)
        for id_ in ids:
            # Of one that is unknown here, another job store or a later release may know.
            if (standing := known.get(id_)) is not None:
                name = JobName(tenant.tenant, id_)
                await self._noted(str(name), self._checkpoints_of(name, ended=standing.ended))

    async def _checkpoints_of(self, job: JobName, *, ended: bool) -> None:
        before = self._now - self._rules.grace
        for garbage in await checkpoint_garbage(self._store, job, ended=ended, before=before):
            await self._removal.remove(garbage)

    async def _versions(self, tenant: TenantName, adapter: AdapterName) -> None:
        files = await version_files(self._registry, adapter)
        # Asked after the listing: whatever was uploaded by then, its job is known.
        ids = sorted({job_of(version) for version in files})
        known = await standings(self._database, tenant, ids)
        graces = self._now - self._rules.grace, self._now - self._rules.deleted_versions
        for garbage in uncommitted(adapter, files, known, graces[0]):
            await self._removal.remove(garbage)
        for garbage in await deleted(self._registry, adapter, files, graces[1]):
            await self._removal.remove(garbage)

    async def _uploads(self, dataset: DatasetName) -> None:
        async with self._turn(dataset):
            for garbage in await abandoned(self._store, dataset, self._now - self._rules.grace):
                await self._removal.remove(garbage)

    async def _marks(self, tenant: TenantName) -> None:
        before = self._now - self._rules.grace
        for garbage in await stale_marks(self._store, tenant, before):
            await self._removal.remove(garbage)

    async def _hot_lists(self) -> None:
        for garbage in await hot_list_garbage(self._store, self._now - self._rules.hot_lists):
            await self._removal.remove(garbage)
