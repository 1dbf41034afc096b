"""Adapters in the object store: versions, and the log of routes.

tenants/{tenant}/adapters/{adapter}/versions/{version}/...          manifest.json last
tenants/{tenant}/adapters/{adapter}/routes/{generation:012d}.json   append-only

Nothing here is ever overwritten. The highest route generation is live; creating the next one is the
compare-and-swap, on every store.
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tailorbird.errors import Conflict, DataCorrupt, InvalidArgument, NotFound
from tailorbird.manifest import MANIFEST, AdapterManifest
from tailorbird.names import VERSION_ID, AdapterName, TenantName, VersionName
from tailorbird.object_store import ObjectExists, ObjectStore

RouteReason = Literal["publish", "promote", "rollback"]


class RoutedVersion(BaseModel):
    """A version and its share of the adapter's traffic."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Annotated[str, Field(pattern=f"^{VERSION_ID}$")]
    weight: Annotated[int, Field(ge=100, le=100)] = 100


class Route(BaseModel):
    """One generation of an adapter's route log; `nonce` tells its writer that it was its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    generation: Annotated[int, Field(ge=1)]
    versions: Annotated[tuple[RoutedVersion, ...], Field(min_length=1, max_length=1)]
    reason: RouteReason
    actor: str
    create_time: datetime
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
            data = await self.store.get(f"{version}/{MANIFEST}")
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
            data = await self.store.get(_route_key(adapter, generation))
        except NotFound:
            return None
        try:
            return Route.model_validate_json(data)
        except ValidationError as error:
            raise DataCorrupt(
                f"route {generation} of {adapter} is not a route", reason="ROUTE_INVALID"
            ) from error

    async def head(self, adapter: AdapterName, after: Route | None = None) -> Route | None:
        """Return the newest route, or None if the adapter was never routed.

        With `after`, a route known already, one read a generation; without, one listing.
        """
        if after is None:
            generation = await self._last_generation(adapter)
            return await self.route(adapter, generation) if generation else None
        newest = after
        while (later := await self.route(adapter, newest.generation + 1)) is not None:
            newest = later
        return newest

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

    async def _last_generation(self, adapter: AdapterName) -> int:
        last = 0
        async for info in self.store.objects(f"{adapter}/routes"):
            match = re.fullmatch(r".*/([0-9]{12})\.json", info.key)
            if match is not None:
                last = max(last, int(match[1]))
        return last


def _route_key(adapter: AdapterName, generation: int) -> str:
    return f"{adapter}/routes/{generation:012d}.json"
