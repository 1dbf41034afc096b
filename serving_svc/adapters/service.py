"""The use cases of AdapterService: what is in the registry, and moving routes through the gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

import structlog

from serving_svc.adapters.paging import Page
from serving_svc.adapters.routing import Router
from serving_svc.adapters.routing.promotion import Promotion, Warmer
from tailorbird.errors import DataCorrupt, FailedPrecondition, InvalidArgument, NotFound
from tailorbird.manifest import AdapterManifest
from tailorbird.names import AdapterName, TenantName, VersionName
from tailorbird.registry import AdapterRegistry
from tailorbird.routes import Route, RouteConflict, RoutedVersion

_log = structlog.get_logger(__name__)


class Refusal(Protocol):
    """Why a version is not served; with `retryable` it is tried again, not before `retry_at`."""

    @property
    def reason(self) -> str: ...

    @property
    def message(self) -> str: ...

    @property
    def retryable(self) -> bool: ...

    @property
    def retry_at(self) -> datetime | None: ...


class Refusals(Protocol):
    """What this replica refuses to serve."""

    def get(self, version: VersionName) -> Refusal | None:
        """Return why the version is refused, or None."""

    def of(self, adapter: AdapterName) -> Mapping[VersionName, Refusal]:
        """Return the adapter's versions that are refused."""


@dataclass(frozen=True, slots=True)
class AdapterState:
    """An adapter: its newest route, and what this replica makes of it."""

    name: AdapterName
    route: Route | None
    effective_generation: int
    refusals: Mapping[VersionName, Refusal]


@dataclass(frozen=True, slots=True)
class PublishedVersion:
    """A version; `manifest` None if its manifest cannot be read, so that it can only be named."""

    name: VersionName
    manifest: AdapterManifest | None
    refusal: Refusal | None = None
    delete_time: datetime | None = None
    report: Mapping[str, Any] | None = None
    """Its report.json; None also where it cannot be read, or was not asked for."""


class Adapters:
    """Reads the registry, and appends routes to versions that pass the gate here.

    `slots` is how many versions the engine can hold.
    """

    def __init__(
        self,
        registry: AdapterRegistry,
        router: Router,
        warmer: Warmer,
        refusals: Refusals,
        *,
        slots: int,
    ) -> None:
        self._registry = registry
        self._router = router
        self._refusals = refusals
        self._promotion = Promotion(registry, router, warmer, slots=slots)

    async def list_adapters(self, tenant: TenantName, page: Page) -> tuple[list[AdapterState], str]:
        """Return a page of the tenant's adapters that are routed or have a version; its token.

        One listing of the tenant's folders; else only the page's adapters are looked at.
        """
        return await page.fill(await self._registry.adapter_names(tenant), self._state)

    async def get_adapter(self, name: AdapterName) -> AdapterState:
        """Return an adapter; NotFound if it has neither a route nor a published version."""
        state = await self._state(name)
        if state is None:
            raise NotFound(name, reason="ADAPTER_NOT_FOUND")
        return state

    async def list_versions(
        self, adapter: AdapterName, page: Page
    ) -> tuple[list[PublishedVersion], str]:
        """Return a page of the adapter's versions that are not deleted, newest first; its token.

        Raises NotFound if there is no such adapter. Only the page's manifests are read.
        """
        names = await self._registry.version_names(adapter)
        found, token = await page.fill(names, self._listed, descending=True)
        if not found:
            await self.get_adapter(adapter)
        return found, token

    async def get_version(self, name: VersionName) -> PublishedVersion:
        """Return a version, a deleted one too as long as its files are there.

        Raises NotFound, and DataCorrupt if its manifest cannot be read; a report that cannot is
        left out.
        """
        manifest = await self._registry.stored_manifest(name)
        found = await self._described(name, manifest)
        with suppress(DataCorrupt, NotFound):
            return replace(found, report=await self._registry.report(name, manifest))
        return found

    async def get_report(self, name: VersionName, file: str) -> bytes:
        """Return a version's REPORT or REPORT_PAGE, as it was published.

        Raises NotFound (also REPORT_NOT_FOUND: it has none; VERSION_DELETED: it has none any more),
        and DataCorrupt if its manifest or the report cannot be read.
        """
        manifest = await self._registry.stored_manifest(name)
        content = await self._registry.report_file(name, manifest, file)
        if content is None:
            raise NotFound(f"{file} of {name}", reason="REPORT_NOT_FOUND")
        return content

    async def promote(self, version: VersionName, actor: str) -> Route:
        """Route the adapter to `version` after the gate; return the newest route.

        Raises NotFound, AdapterRefused, RouteConflict, ResourceExhausted, StoreUnavailable.
        """
        adapter = version.adapter_name
        head = await self._registry.head(adapter)
        versions = (RoutedVersion(version=version.version),)
        return await self._promotion.move(adapter, versions, head, "promote", actor)

    async def set_route(
        self,
        adapter: AdapterName,
        versions: Sequence[RoutedVersion],
        expected_generation: int,
        actor: str,
    ) -> Route:
        """Route the adapter to versions by weight, after the gate; return the newest route.

        Raises what `promote` raises, and RouteConflict if `expected_generation` is neither 0 nor
        the newest.
        """
        head = await self._registry.head(adapter)
        newest = head.generation if head else 0
        if expected_generation not in (0, newest):
            raise RouteConflict(
                f"the newest route of {adapter} has generation {newest}, not {expected_generation}",
                generation=newest,
            )
        return await self._promotion.move(adapter, tuple(versions), head, "set", actor)

    async def rollback(
        self, adapter: AdapterName, to_version: VersionName | None, actor: str
    ) -> Route:
        """Route the adapter back, to `to_version` or to what was routed before the present route.

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
        if to_version is None:
            versions = await self._routed_before(adapter, head)
        else:
            versions = (RoutedVersion(version=to_version.version),)
        return await self._promotion.move(adapter, versions, head, "rollback", actor)

    async def delete_version(self, version: VersionName, actor: str) -> PublishedVersion:
        """Delete a version that is not routed, and return it. Done before: nothing happens.

        Raises NotFound, FailedPrecondition (VERSION_ROUTED) and StoreUnavailable. A route that is
        written to it at the same time is seen here after the tombstone, or its writer sees the
        tombstone after the route (`Promotion`): one of the two callers is told, and every replica
        walks back from such a route. The tombstone stands.
        """
        published = await self._present(version)
        if published.delete_time is not None:
            return published
        head = await self._registry.head(version.adapter_name)
        if self._router.leads_to(version) or _leads_to(head, version):
            raise _routed(version, "route it elsewhere first")
        tombstone = await self._registry.bury(version, actor)
        self._router.deleted(version)
        _log.info("version deleted", version=str(version), actor=actor)
        if _leads_to(await self._registry.head(version.adapter_name), version):
            raise _routed(version, "it was routed while it was deleted, and is served no more")
        return PublishedVersion(
            version, published.manifest, published.refusal, tombstone.delete_time
        )

    async def _routed_before(self, adapter: AdapterName, head: Route) -> tuple[RoutedVersion, ...]:
        async for route in self._registry.earlier(adapter, head.generation):
            if not route.splits_like(head.versions):
                return route.versions
        raise FailedPrecondition(
            f"{adapter} was routed to no other version before {head.version}",
            reason="NO_PREVIOUS_VERSION",
            adapter=adapter,
        )

    async def _state(self, name: AdapterName) -> AdapterState | None:
        route = await self._registry.head(name)
        if route is None and not await self._registry.has_version(name):
            return None
        generation = self._router.effective_generation(name)
        return AdapterState(name, route, generation, self._refusals.of(name))

    async def _present(self, name: VersionName) -> PublishedVersion:
        """Return a version, also one whose manifest cannot be read; NotFound."""
        try:
            return await self._described(name, await self._registry.stored_manifest(name))
        except DataCorrupt:
            # One broken version must not hide the others.
            _log.warning("manifest cannot be read", version=str(name))
            return await self._described(name, None)

    async def _described(
        self, name: VersionName, manifest: AdapterManifest | None
    ) -> PublishedVersion:
        tombstone = await self._registry.tombstone(name)
        delete_time = None if tombstone is None else tombstone.delete_time
        return PublishedVersion(name, manifest, self._refusals.get(name), delete_time)

    async def _listed(self, name: VersionName) -> PublishedVersion | None:
        try:
            found = await self._present(name)
        except NotFound:
            # It is being uploaded, or was never published.
            return None
        return found if found.delete_time is None else None


def _leads_to(route: Route | None, version: VersionName) -> bool:
    return route is not None and route.leads_to(version.version)


def _routed(version: VersionName, what: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"{version} has a share of its adapter's traffic: {what}",
        reason="VERSION_ROUTED",
        version=version,
    )
