"""All of a tenant is forgotten: an operator's act, which may be begun again after any failure.

Serving comes first. Every version gets a tombstone, and every adapter a newest route to one: a
replica that looks for the next generation finds at once that it has nothing left to serve. These
two stay, with nothing in them but names, so that a replica that was away obeys as well, and a
tenant that comes back goes on after them. Then everything else goes from the object store, and the
rows of the jobs last, since they are what is asked by whoever begins again.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

import structlog

from tailorbird.errors import Aborted, FailedPrecondition, NotFound, TailorbirdError
from tailorbird.names import AdapterName, JobName, TenantName
from tailorbird.object_store import ObjectInfo
from tailorbird.registry import TOMBSTONE, AdapterRegistry
from tailorbird.routes import Route, RouteConflict, RoutedVersion
from trainer_svc.housekeeping.collector import Stores, remove_partial
from trainer_svc.housekeeping.erased import (
    Erasure,
    forget_tenant,
    read_erasure,
    write_erasure,
)
from trainer_svc.housekeeping.model import Count, Kind, Tally
from trainer_svc.housekeeping.removal import delete_all
from trainer_svc.jobs.feed import Feed
from trainer_svc.jobs.housekeeping import delete_job, ended_jobs, open_jobs, store_time
from trainer_svc.jobs.store import JobStore

_log = structlog.get_logger(__name__)

JOBS_NOT_ENDED = "JOBS_NOT_ENDED"
STILL_WRITTEN = "STILL_WRITTEN"
ERASURE = "erasure"
"""The actor of what an erasure writes."""
_MOST_JOBS_TOLD = 5
_LOOK_SECONDS = 1.0
_PASSES = 3
_PAGE = 200
_KINDS = {
    "adapters": Kind.ADAPTERS,
    "datasets": Kind.DATASETS,
    "dataset_use": Kind.DATASETS,
    "deleted_datasets": Kind.DATASETS,
    "feedback": Kind.FEEDBACK,
    "jobs": Kind.CHECKPOINTS,
}


@dataclass(frozen=True)
class Asked:
    """Whose data is to go. `patience`: seconds for jobs that are to be cancelled to end."""

    tenant: TenantName
    cancel_jobs: bool
    patience: float


async def erase(stores: Stores, asked: Asked) -> Erasure:
    """Remove everything of a tenant, and return what was removed, in earlier tries as well.

    Raises FailedPrecondition (JOBS_NOT_ENDED) while it has jobs that have not ended, unless they
    are to be cancelled; Aborted (STILL_WRITTEN) if something goes on writing; DatabaseUnavailable,
    StoreUnavailable. After any of these it may be called again.
    """
    await _end_jobs(stores, asked)
    return await _Erasing(stores, asked.tenant).run()


async def _end_jobs(stores: Stores, asked: Asked) -> None:
    left = await open_jobs(stores.database, asked.tenant)
    if left and not asked.cancel_jobs:
        raise _not_ended(left, "cancel them, or have it done by --cancel-jobs")
    jobs = JobStore(stores.database, Feed())
    for name in left:
        try:
            await jobs.request_cancel(name)
        except (FailedPrecondition, NotFound) as error:
            # It ended meanwhile, and may be deleted; or is about to: its version is committed.
            _log.info("not cancelled", job=str(name), error=error.message)
    end = asyncio.get_running_loop().time() + asked.patience
    while left := await open_jobs(stores.database, asked.tenant):
        if asyncio.get_running_loop().time() >= end:
            raise _not_ended(left, "they are being cancelled; try again when they have ended")
        await asyncio.sleep(_LOOK_SECONDS)


def _not_ended(jobs: list[JobName], todo: str) -> FailedPrecondition:
    told = ", ".join(map(str, jobs[:_MOST_JOBS_TOLD]))
    more = f" and {len(jobs) - _MOST_JOBS_TOLD} more" if len(jobs) > _MOST_JOBS_TOLD else ""
    return FailedPrecondition(
        f"jobs have not ended: {told}{more}; {todo}", reason=JOBS_NOT_ENDED, jobs=len(jobs)
    )


class _Erasing:
    def __init__(self, stores: Stores, tenant: TenantName) -> None:
        self._stores = stores
        self._store = stores.objects
        self._database = stores.database
        self._registry = AdapterRegistry(stores.objects)
        self._tenant = tenant
        self._tally = Tally()

    async def run(self) -> Erasure:
        begun = await read_erasure(self._store, self._tenant, await store_time(self._database))
        begun = begun.model_copy(update={"tries": begun.tries + 1})
        # Before anything goes: from here on other trainers let go of what they have cached.
        await write_erasure(self._store, self._tenant, begun)
        try:
            for adapter in await self._registry.adapter_names(self._tenant):
                await self._silence(adapter)
            await self._remove_objects()
            await remove_partial(self._stores, self._tenant, self._tally)
            await self._remove_rows()
            await forget_tenant(self._stores, self._tenant.tenant, self._tally)
            await self._database.scrub()
            await self._check_nothing_came()
        except BaseException:
            # What was removed is told by whoever tries again.
            with suppress(TailorbirdError):
                await write_erasure(self._store, self._tenant, self._so_far(begun))
            raise
        tombstones, routes = await self._kept()
        ended = self._so_far(begun).model_copy(
            update={
                "end_time": await store_time(self._database),
                "tombstones": tombstones,
                "routes": routes,
            }
        )
        await write_erasure(self._store, self._tenant, ended)
        return ended

    def _so_far(self, begun: Erasure) -> Erasure:
        removed = dict(begun.removed)
        for kind, count in self._tally.removed.items():
            before = removed.get(kind, Count())
            removed[kind] = before.plus(count.objects, count.bytes, count.things)
        return begun.model_copy(update={"removed": removed})

    async def _silence(self, adapter: AdapterName) -> None:
        """Let no replica serve any version of an adapter again."""
        head = await self._registry.head(adapter)
        routed = {each.version for each in head.versions} if head else set()
        stored = await self._registry.version_names(adapter)
        for name in {*stored, *map(adapter.version, routed)}:
            await self._registry.bury(name, ERASURE)
        while head is not None and head.actor != ERASURE:
            route = Route(
                generation=await self._registry.next_generation(adapter, head),
                versions=(RoutedVersion(version=head.version),),
                reason="set",
                actor=ERASURE,
                create_time=await store_time(self._database),
                nonce=uuid.uuid4().hex,
            )
            try:
                await self._registry.append_route(adapter, route)
                return
            except RouteConflict:
                head = await self._registry.head(adapter)
                if head is not None:
                    for each in head.versions:
                        await self._registry.bury(adapter.version(each.version), ERASURE)

    async def _remove_objects(self) -> None:
        """Delete what is not kept, and what came meanwhile; Aborted if there is always more."""
        for _ in range(_PASSES):
            found = False
            async for kind, objects in self._folders():
                found = True
                await delete_all(self._store, objects)
                self._tally.add(kind, len(objects), sum(info.size for info in objects))
            if not found:
                return
        raise _still_written(f"objects under {self._tenant}")

    async def _folders(self) -> AsyncIterator[tuple[Kind, list[ObjectInfo]]]:
        """Yield what is to go, a dataset, an adapter, a day or a job at a time."""
        for section in await self._store.folders(str(self._tenant)):
            kind = _KINDS.get(section, Kind.OTHER)
            for thing in await self._store.folders(f"{self._tenant}/{section}"):
                if objects := await self._removable(f"{self._tenant}/{section}/{thing}"):
                    yield kind, objects
        if objects := await self._removable(str(self._tenant)):
            yield Kind.OTHER, objects

    async def _removable(self, folder: str) -> list[ObjectInfo]:
        objects = [info async for info in self._store.objects(folder)]
        kept = _kept_routes(objects)
        return [info for info in objects if info.key not in kept and not _is_tombstone(info)]

    async def _kept(self) -> tuple[int, int]:
        tombstones = routes = 0
        async for info in self._store.objects(str(self._tenant)):
            tombstones += _is_tombstone(info)
            routes += not _is_tombstone(info)
        return tombstones, routes

    async def _remove_rows(self) -> None:
        while names := await ended_jobs(self._database, self._tenant, None, _PAGE):
            for name in names:
                # The collector, or another who erases, may have been there first.
                with suppress(NotFound):
                    self._tally.add(Kind.ENDED_JOBS, await delete_job(self._database, name), 0)

    async def _check_nothing_came(self) -> None:
        if left := await open_jobs(self._database, self._tenant):
            raise _still_written(f"{left[0]}, a new job")
        async for _ in self._folders():
            raise _still_written(f"objects under {self._tenant}")


def _is_tombstone(info: ObjectInfo) -> bool:
    folder, _, file = info.key.rpartition("/")
    return file == TOMBSTONE and folder.split("/")[-2:-1] == ["versions"]


def _kept_routes(objects: list[ObjectInfo]) -> set[str]:
    """Return the key of the newest route of each adapter."""
    newest: dict[str, str] = {}
    for info in objects:
        folder = info.key.rpartition("/")[0]
        if folder.split("/")[-1] == "routes" and folder.split("/")[2:3] == ["adapters"]:
            newest[folder] = max(newest.get(folder, ""), info.key)
    return {*newest.values()}


def _still_written(what: str) -> Aborted:
    return Aborted(
        f"{what} came while the tenant was erased: take its tokens away, and try again",
        reason=STILL_WRITTEN,
    )
