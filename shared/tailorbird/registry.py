"""Adapters in the object store: versions, and the log of routes.

tenants/{tenant}/adapters/{adapter}/versions/{version}/...          manifest.json last
tenants/{tenant}/adapters/{adapter}/versions/{version}/tombstone.json   the version is deleted
tenants/{tenant}/adapters/{adapter}/routes/{generation:012d}.json   append-only

Nothing here is ever overwritten. The highest route generation is live; creating the next one is the
compare-and-swap, on every store.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from tailorbird.errors import Conflict, DataCorrupt, InvalidArgument, NotFound
from tailorbird.manifest import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    MAX_REPORT_BYTES,
    REPORT,
    AdapterManifest,
    Instant,
)
from tailorbird.names import AdapterName, TenantName, VersionName
from tailorbird.object_store import ObjectExists, ObjectStore
from tailorbird.routes import MAX_GENERATION, Route, RouteConflict

_log = structlog.get_logger(__name__)

_MAX_ROUTE_BYTES = 64 * 2**10

TOMBSTONE = "tombstone.json"


class Tombstone(BaseModel):
    """A version was deleted. What a newer writer adds is kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    version: str
    delete_time: Instant
    actor: str


class AdapterRegistry:
    """Reads and appends what the contract allows, and nothing else."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    async def adapter_names(self, tenant: TenantName) -> list[AdapterName]:
        """Return the tenant's adapters by name; one listing. Some may have no version yet."""
        names = []
        for id_ in await self.store.folders(f"{tenant}/adapters"):
            with suppress(InvalidArgument):
                names.append(AdapterName.parse(f"{tenant}/adapters/{id_}"))
        return names

    async def version_names(self, adapter: AdapterName) -> list[VersionName]:
        """Return the adapter's versions, newest first; one listing.

        Some may not be published yet, or be deleted: `manifest` tells.
        """
        names = []
        for id_ in await self.store.folders(f"{adapter}/versions"):
            with suppress(InvalidArgument):
                names.append(adapter.version(id_))
        return sorted(names, key=lambda name: name.version, reverse=True)

    async def has_version(self, adapter: AdapterName) -> bool:
        """Tell whether the adapter has a published version that is not deleted.

        Reads the listing only as far as the first one.
        """
        manifest = re.compile(rf"{adapter}/versions/([^/]+)/{re.escape(MANIFEST)}")
        async for info in self.store.objects(f"{adapter}/versions"):
            if (match := manifest.fullmatch(info.key)) is None:
                continue
            with suppress(InvalidArgument):
                if await self.tombstone(adapter.version(match[1])) is None:
                    return True
        return False

    async def manifest(self, version: VersionName) -> AdapterManifest:
        """Return the manifest of a version that is there to be served.

        Raises NotFound (VERSION_NOT_FOUND: not published; VERSION_DELETED), and DataCorrupt if the
        manifest is broken.
        """
        await self.check_not_deleted(version)
        return await self.stored_manifest(version)

    async def stored_manifest(self, version: VersionName) -> AdapterManifest:
        """Return a version's manifest, also of one that is deleted; raises what `manifest` does."""
        manifest = AdapterManifest.from_json(await self._manifest_bytes(version))
        if manifest.version != str(version):
            raise DataCorrupt(
                f"the manifest of {version} names {manifest.version}", reason="MANIFEST_INVALID"
            )
        return manifest

    async def report(
        self, version: VersionName, manifest: AdapterManifest
    ) -> dict[str, Any] | None:
        """Return the version's report.json, or None if it was published without one.

        Raises DataCorrupt (REPORT_INVALID) if it is none, or not the file that the manifest names;
        NotFound (VERSION_DELETED) if it was collected.
        """
        data = await self.report_file(version, manifest, REPORT)
        if data is None:
            return None
        with suppress(ValueError, RecursionError):
            if isinstance(found := json.loads(data), dict):
                return found
        raise DataCorrupt(f"{REPORT} of {version} is no report", reason="REPORT_INVALID")

    async def report_file(
        self, version: VersionName, manifest: AdapterManifest, name: str
    ) -> bytes | None:
        """Return `name`, REPORT or REPORT_PAGE, or None if the version was published without it.

        Raises DataCorrupt (REPORT_INVALID) if it is not the file that the manifest names; NotFound
        (VERSION_DELETED) if it was collected.
        """
        entry = manifest.files.get(name)
        if entry is None:
            return None
        try:
            data = await self.store.get(f"{version}/{name}", MAX_REPORT_BYTES)
            if hashlib.sha256(data).hexdigest() == entry.sha256:
                return data
        except (NotFound, DataCorrupt) as error:
            # Of a deleted version, little more than the manifest stays.
            await self.check_not_deleted(version)
            _log.warning("report cannot be read", version=str(version), error=error.message)
        raise DataCorrupt(f"{name} of {version} is not what was published", reason="REPORT_INVALID")

    async def check_present(self, version: VersionName) -> None:
        """Raise NotFound if the version is not published (VERSION_NOT_FOUND) or VERSION_DELETED.

        Two reads; what the manifest says is not looked at.
        """
        await self.check_not_deleted(version)
        with suppress(DataCorrupt):
            # Too long to be read, and there.
            await self._manifest_bytes(version)

    async def check_not_deleted(self, version: VersionName) -> None:
        """Raise NotFound (VERSION_DELETED) if the version has a tombstone; one read."""
        if await self.tombstone(version) is not None:
            raise NotFound(version, reason="VERSION_DELETED")

    async def tombstone(self, version: VersionName) -> Tombstone | None:
        """Return the version's tombstone, or None if it is not deleted.

        One that cannot be read stands for a deletion as well: its time is then unknown (1970).
        """
        try:
            data = await self.store.get(f"{version}/{TOMBSTONE}", _MAX_ROUTE_BYTES)
            return Tombstone.model_validate_json(data)
        except NotFound:
            return None
        except (ValidationError, DataCorrupt):
            _log.warning("tombstone cannot be read", version=str(version))
            unknown = datetime.fromtimestamp(0, UTC)
            return Tombstone(version=str(version), delete_time=unknown, actor="")

    async def bury(self, version: VersionName, actor: str) -> Tombstone:
        """Write the version's tombstone and return it. Done before: the first one stands."""
        tombstone = Tombstone(version=str(version), delete_time=datetime.now(UTC), actor=actor)
        try:
            await self.store.create(f"{version}/{TOMBSTONE}", tombstone.model_dump_json().encode())
        except ObjectExists:
            return await self.tombstone(version) or tombstone
        return tombstone

    async def publish(
        self, version: VersionName, manifest: AdapterManifest, data: bytes | None = None
    ) -> None:
        """Write the manifest, which makes the version exist. Done before: nothing happens.

        `data`: the bytes of the manifest, where another release may have begun to write them.
        Raises Conflict if the manifest of other files stands there.
        """
        data = manifest.to_json() if data is None else data
        try:
            await self.store.create(f"{version}/{MANIFEST}", data)
        except ObjectExists:
            if not await self._is_published(version, manifest, data):
                raise Conflict(f"{version} is published with another manifest") from None

    async def _is_published(
        self, version: VersionName, manifest: AdapterManifest, data: bytes
    ) -> bool:
        """Tell whether the manifest that stands there is this one.

        Written by a release that writes its bytes otherwise, it names the same files.
        """
        found = await self._manifest_bytes(version)
        if found == data:
            return True
        with suppress(DataCorrupt):
            stored = AdapterManifest.from_json(found)
            return stored.version == manifest.version and stored.files == manifest.files
        return False

    async def route(self, adapter: AdapterName, generation: int) -> Route | None:
        """Return one generation of the route log, or None if it is not written yet."""
        try:
            data = await self.store.get(_route_key(adapter, generation), _MAX_ROUTE_BYTES)
        except NotFound:
            return None
        with suppress(ValidationError):
            found = Route.model_validate_json(data)
            if found.generation == generation:
                return found
        raise DataCorrupt(f"route {generation} of {adapter} is not a route", reason="ROUTE_INVALID")

    async def head(self, adapter: AdapterName, after: Route | None = None) -> Route | None:
        """Return the newest route that can be read, or None if there is none.

        Without `after`, one listing. With it, a route known already: one read if it is the newest,
        and about 2 log2(n) if n newer ones are written.
        """
        if after is None:
            async with aclosing(self.earlier(adapter, MAX_GENERATION + 1)) as routes:
                return await anext(routes, None)
        known, read = after.generation, dict[int, Route | None]()
        for generation in range(await self._newest(adapter, known, read), known, -1):
            if generation not in read:
                await self._probe(adapter, generation, read)
            if (found := read[generation]) is not None:
                return found
        return after

    async def earlier(self, adapter: AdapterName, generation: int) -> AsyncGenerator[Route]:
        """Yield the routes below `generation` that can be read, newest first; one listing."""
        for number in await self._generations(adapter):
            if number >= generation:
                continue
            try:
                found = await self.route(adapter, number)
            except DataCorrupt as error:
                _log.warning("route passed over", error=error.message)
                continue
            if found is not None:
                yield found

    async def next_generation(self, adapter: AdapterName, head: Route | None) -> int:
        """Return the generation to write after `head`; what cannot be read there stays."""
        generation = head.generation if head else 0
        while True:
            generation += 1
            try:
                await self.route(adapter, generation)
            except DataCorrupt as error:
                _log.warning("route passed over", error=error.message)
                continue
            return generation

    async def append_route(
        self, adapter: AdapterName, route: Route, data: bytes | None = None
    ) -> None:
        """Write exactly `route.generation`; RouteConflict if somebody else has.

        `data`: its bytes, as in `publish`. A reply that was lost is no conflict: the nonce tells
        that the route there is this one. What cannot be read there, a later release's, is not.
        """
        data = route.model_dump_json().encode() if data is None else data
        try:
            await self.store.create(_route_key(adapter, route.generation), data)
        except ObjectExists:
            written = None
            with suppress(DataCorrupt):
                written = await self.route(adapter, route.generation)
            if written is None or written.nonce != route.nonce:
                raise RouteConflict(
                    f"generation {route.generation} of {adapter} was written by somebody else",
                    generation=route.generation,
                ) from None

    async def _newest(self, adapter: AdapterName, known: int, read: dict[int, Route | None]) -> int:
        """Return the newest generation that is written, readable or not; `known` is one.

        Strides double until one is not written, then halve. Generations have no gaps but where old
        ones were collected, which are below `known`. What was read on the way is put into `read`.
        """
        newest, stride = known, 1
        while await self._probe(adapter, newest + stride, read):
            newest, stride = newest + stride, stride * 2
        while (stride := stride // 2) > 0:
            if await self._probe(adapter, newest + stride, read):
                newest += stride
        return newest

    async def _probe(
        self, adapter: AdapterName, generation: int, read: dict[int, Route | None]
    ) -> bool:
        """Tell whether a generation is written, and put it into `read`: None if unreadable."""
        try:
            found = await self.route(adapter, generation)
        except DataCorrupt:
            found, written = None, True
        else:
            written = found is not None
        read[generation] = found
        return written

    async def _manifest_bytes(self, version: VersionName) -> bytes:
        try:
            return await self.store.get(f"{version}/{MANIFEST}", MAX_MANIFEST_BYTES)
        except NotFound as error:
            raise NotFound(version, reason="VERSION_NOT_FOUND") from error

    async def _generations(self, adapter: AdapterName) -> list[int]:
        """Return the generations that are written, newest first."""
        found = []
        async for info in self.store.objects(f"{adapter}/routes"):
            match = re.fullmatch(r".*/([0-9]{12})\.json", info.key)
            if match is not None:
                found.append(int(match[1]))
        return sorted(found, reverse=True)


def _route_key(adapter: AdapterName, generation: int) -> str:
    return f"{adapter}/routes/{generation:012d}.json"
