"""Adapters in the object store: versions, and the log of routes.

tenants/{tenant}/adapters/{adapter}/versions/{version}/...          manifest.json last
tenants/{tenant}/adapters/{adapter}/routes/{generation:012d}.json   append-only

Nothing here is ever overwritten. The highest route generation is live; creating the next one is the
compare-and-swap, on every store.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Annotated, Literal

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tailorbird.errors import Conflict, DataCorrupt, InvalidArgument, NotFound
from tailorbird.manifest import MANIFEST, MAX_MANIFEST_BYTES, AdapterManifest, Instant
from tailorbird.names import VERSION_ID, AdapterName, TenantName, VersionName
from tailorbird.object_store import ObjectExists, ObjectStore

_log = structlog.get_logger(__name__)

_NO_GENERATION = 10**12
"""Above every generation, which has 12 digits."""

_MAX_ROUTE_BYTES = 64 * 2**10

RouteReason = Literal["publish", "promote", "rollback"]


class RoutedVersion(BaseModel):
    """A version and its share of the adapter's traffic."""

    model_config = ConfigDict(frozen=True, extra="allow")

    version: Annotated[str, Field(pattern=f"^{VERSION_ID}$")]
    weight: Annotated[int, Field(ge=100, le=100)] = 100


class Route(BaseModel):
    """One generation of an adapter's route log; `nonce` tells its writer that it was its own."""

    model_config = ConfigDict(frozen=True, extra="allow")

    generation: Annotated[int, Field(ge=1, lt=_NO_GENERATION)]
    versions: Annotated[tuple[RoutedVersion, ...], Field(min_length=1, max_length=1)]
    reason: str
    actor: str
    create_time: Instant
    nonce: str

    @property
    def version(self) -> str:
        """Id of the version that answers."""
        return self.versions[0].version


class RouteConflict(Conflict):
    """The generation to be written was written by somebody else."""

    default_reason = "ROUTE_CONFLICT"


class AdapterRegistry:
    """Reads and appends what the contract allows, and nothing else."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    async def adapters(self, tenant: TenantName) -> list[AdapterName]:
        """Return the tenant's adapters that have a published version, by name."""
        names = []
        for id_ in await self.store.folders(f"{tenant}/adapters"):
            with suppress(InvalidArgument):
                names.append(AdapterName.parse(f"{tenant}/adapters/{id_}"))
        return [name for name in names if await self.versions(name)]

    async def versions(self, adapter: AdapterName) -> list[VersionName]:
        """Return the adapter's published versions, newest first."""
        manifest = re.compile(rf"{adapter}/versions/([^/]+)/{re.escape(MANIFEST)}")
        found = []
        async for info in self.store.objects(f"{adapter}/versions"):
            match = manifest.fullmatch(info.key)
            if match is not None:
                with suppress(InvalidArgument):
                    found.append(adapter.version(match[1]))
        return sorted(found, key=lambda name: name.version, reverse=True)

    async def manifest(self, version: VersionName) -> AdapterManifest:
        """Return a version's manifest; NotFound if it is not published, DataCorrupt if broken."""
        try:
            data = await self.store.get(f"{version}/{MANIFEST}", MAX_MANIFEST_BYTES)
        except NotFound as error:
            raise NotFound(version, reason="VERSION_NOT_FOUND") from error
        manifest = AdapterManifest.from_json(data)
        if manifest.version != str(version):
            raise DataCorrupt(
                f"the manifest of {version} names {manifest.version}", reason="MANIFEST_INVALID"
            )
        return manifest

    async def publish(self, version: VersionName, manifest: AdapterManifest) -> None:
        """Write the manifest, which makes the version exist. Done before: nothing happens.

        Raises Conflict if another manifest stands there.
        """
        data = manifest.to_json()
        key = f"{version}/{MANIFEST}"
        try:
            await self.store.create(key, data)
        except ObjectExists:
            if await self.store.get(key) != data:
                raise Conflict(f"{version} is published with another manifest") from None

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

        With `after`, a route known already, one read a generation; without, one listing.
        """
        if after is None:
            return await self.before(adapter, _NO_GENERATION)
        newest, generation = after, after.generation
        while True:
            generation += 1
            try:
                later = await self.route(adapter, generation)
            except DataCorrupt:
                continue
            if later is None:
                return newest
            newest = later

    async def before(self, adapter: AdapterName, generation: int) -> Route | None:
        """Return the newest route below `generation` that can be read, or None; one listing."""
        for earlier in await self._generations(adapter):
            if earlier >= generation:
                continue
            try:
                found = await self.route(adapter, earlier)
            except DataCorrupt as error:
                _log.warning("route passed over", error=error.message)
                continue
            if found is not None:
                return found
        return None

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

    async def append_route(self, adapter: AdapterName, route: Route) -> None:
        """Write exactly `route.generation`; RouteConflict if somebody else has.

        A reply that was lost is no conflict: the nonce tells that the route there is this one.
        """
        try:
            await self.store.create(
                _route_key(adapter, route.generation), route.model_dump_json().encode()
            )
        except ObjectExists:
            written = await self.route(adapter, route.generation)
            if written is None or written.nonce != route.nonce:
                raise RouteConflict(
                    f"generation {route.generation} of {adapter} was written by somebody else",
                    generation=route.generation,
                ) from None

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
