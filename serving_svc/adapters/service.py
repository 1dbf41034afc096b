"""The use cases of AdapterService: what is in the registry, and moving routes through the gate."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from serving_svc.adapters.adapter_cache import AdapterCache
from serving_svc.adapters.paging import Page
from serving_svc.adapters.router import Router
from tailorbird.errors import (
    AdapterRefused,
    DataCorrupt,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from tailorbird.manifest import AdapterManifest
from tailorbird.names import AdapterName, TenantName, VersionName
from tailorbird.registry import AdapterRegistry, Route, RoutedVersion, RouteReason

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AdapterState:
    """An adapter: its newest route, and what this replica makes of it."""

    name: AdapterName
    route: Route | None
    effective_generation: int
    refusals: dict[VersionName, AdapterRefused]


@dataclass(frozen=True, slots=True)
class PublishedVersion:
    """A version; `manifest` None if its manifest cannot be read, so that it can only be named."""

    name: VersionName
    manifest: AdapterManifest | None


class Adapters:
    """Reads the registry, and appends routes to versions that pass the gate here."""

    def __init__(self, registry: AdapterRegistry, router: Router, cache: AdapterCache) -> None:
        self._registry = registry
        self._router = router
        self._cache = cache

    async def list_adapters(self, tenant: TenantName, page: Page) -> tuple[list[AdapterState], str]:
        """Return a page of the tenant's adapters, and the next page's token."""
        names, token = page.cut(await self._registry.adapters(tenant))
        return list(await asyncio.gather(*map(self._state, names))), token

    async def get_adapter(self, name: AdapterName) -> AdapterState:
        """Return an adapter; NotFound if it has neither a route nor a published version."""
        state = await self._state(name)
        if state.route is None and not await self._registry.versions(name):
            raise NotFound(name, reason="ADAPTER_NOT_FOUND")
        return state

    async def list_versions(
        self, adapter: AdapterName, page: Page
    ) -> tuple[list[PublishedVersion], str]:
        """Return a page of the adapter's versions; NotFound if it has none."""
        names = await self._registry.versions(adapter)
        if not names:
            raise NotFound(adapter, reason="ADAPTER_NOT_FOUND")
        names, token = page.cut(names, descending=True)
        return list(await asyncio.gather(*map(self._published, names))), token

    async def get_version(self, name: VersionName) -> PublishedVersion:
        """Return a version; NotFound, or DataCorrupt if its manifest cannot be read."""
        return PublishedVersion(name, await self._registry.manifest(name))

    async def promote(self, version: VersionName, actor: str) -> Route:
        """Route the adapter to `version` after the gate; return the newest route.

        Raises NotFound, AdapterRefused, RouteConflict, ResourceExhausted, StoreUnavailable.
        """
        head = await self._registry.head(version.adapter_name)
        return await self._move(version, head, "promote", actor)

    async def rollback(
        self, adapter: AdapterName, to_version: VersionName | None, actor: str
    ) -> Route:
        """Route the adapter back, to `to_version` or to the version routed before the present one.

        Raises what `promote` raises, and FailedPrecondition if there is nothing to go back to.
        """
        head = await self._registry.head(adapter)
        if head is None:
            await self.get_adapter(adapter)
            raise FailedPrecondition(
                f"{adapter} was never routed", reason="ADAPTER_NOT_ROUTED", adapter=adapter
            )
        if to_version is not None and to_version.adapter_name != adapter:
            raise InvalidArgument("to_version", f"{to_version} is not a version of {adapter}")
        version = to_version or await self._routed_before(adapter, head)
        return await self._move(version, head, "rollback", actor)

    async def _move(
        self, version: VersionName, head: Route | None, reason: RouteReason, actor: str
    ) -> Route:
        adapter = version.adapter_name
        async with self._cache.lease(version):
            # It may be in the engine and gone from the store: a route would lead nowhere.
            await self._registry.manifest(version)
            route = head
            if route is None or route.version != version.version:
                route = Route(
                    generation=await self._registry.next_generation(adapter, head),
                    versions=(RoutedVersion(version=version.version),),
                    reason=reason,
                    actor=actor,
                    create_time=datetime.now(UTC),
                    nonce=uuid.uuid4().hex,
                )
                await self._registry.append_route(adapter, route)
                _log.info(
                    "route written",
                    adapter=str(adapter),
                    generation=route.generation,
                    version=version.version,
                    reason=reason,
                    actor=actor,
                )
            self._router.adopt(adapter, route)
        return route

    async def _routed_before(self, adapter: AdapterName, head: Route) -> VersionName:
        route: Route | None = head
        while route is not None:
            if route.version != head.version:
                return adapter.version(route.version)
            route = await self._registry.before(adapter, route.generation)
        raise FailedPrecondition(
            f"{adapter} was routed to no other version before {head.version}",
            reason="NO_PREVIOUS_VERSION",
            adapter=adapter,
        )

    async def _state(self, name: AdapterName) -> AdapterState:
        return AdapterState(
            name,
            await self._registry.head(name),
            self._router.effective_generation(name),
            self._cache.refusals(name),
        )

    async def _published(self, name: VersionName) -> PublishedVersion:
        try:
            return await self.get_version(name)
        except DataCorrupt:
            # One broken version must not hide the others.
            _log.warning("manifest cannot be read", version=str(name))
            return PublishedVersion(name, None)
