"""Moving a route: its versions through the gate, the route written, then in effect at once."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Protocol

import structlog

from serving_svc.adapters.routing.router import Router
from serving_svc.adapters.routing.walk import replaced_by
from tailorbird.errors import ResourceExhausted
from tailorbird.names import AdapterName, VersionName
from tailorbird.registry import AdapterRegistry
from tailorbird.routes import Route, RoutedVersion, RouteReason

_log = structlog.get_logger(__name__)

# Further versions are held only if that needs no long wait: two who hold one each and wait for
# another's would wait for ever.
_HOLD_MORE_SECONDS = 2.0


class Warmer(Protocol):
    """What moving a route needs of the engine's slots."""

    def hold(
        self, version: VersionName, replaces: VersionName | None = None
    ) -> AbstractAsyncContextManager[None]:
        """Hold a version in the engine, through the gate first; AdapterRefused, NotFound.

        If all slots are busy, best that of `replaces` drains for it.
        """

    async def warm(self, version: VersionName) -> None:
        """Put a version through the gate and into the engine; AdapterRefused, NotFound."""


class Promotion:
    """Appends routes; `slots` is how many versions the engine can hold."""

    def __init__(
        self, registry: AdapterRegistry, router: Router, warmer: Warmer, *, slots: int
    ) -> None:
        self._registry = registry
        self._router = router
        self._warmer = warmer
        self._slots = slots

    async def move(
        self,
        adapter: AdapterName,
        versions: tuple[RoutedVersion, ...],
        head: Route | None,
        reason: RouteReason,
        actor: str,
    ) -> Route:
        """Route `adapter` to `versions`, if `head` is still the newest route; return that.

        `head` is returned if it splits the traffic in the same way. Raises NotFound,
        AdapterRefused, RouteConflict, ResourceExhausted, StoreUnavailable.
        """
        by_weight = sorted(versions, key=lambda routed: routed.weight)
        names = [adapter.version(routed.version) for routed in by_weight]
        async with self._held(names, replaced_by(adapter, versions, head)):
            # They may be in the engine and gone from the store: a route would lead nowhere.
            for name in names:
                await self._registry.manifest(name)
            route = head
            if route is None or not route.splits_like(versions):
                route = await self._append(adapter, versions, head, reason, actor)
                # Deleted meanwhile: who deletes reads the route after the tombstone, and who routes
                # reads the tombstone after the route, so that one of them is told.
                for name in names:
                    await self._registry.check_not_deleted(name)
            self._router.adopt(adapter, route)
        return route

    async def _append(
        self,
        adapter: AdapterName,
        versions: tuple[RoutedVersion, ...],
        head: Route | None,
        reason: RouteReason,
        actor: str,
    ) -> Route:
        route = Route(
            generation=await self._registry.next_generation(adapter, head),
            versions=versions,
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
            versions={routed.version: routed.weight for routed in versions},
            reason=reason,
            actor=actor,
        )
        return route

    @asynccontextmanager
    async def _held(
        self, names: Sequence[VersionName], replaces: VersionName | None
    ) -> AsyncIterator[None]:
        """Put `names`, the heaviest last, through the gate; hold the heaviest, and what fits.

        One slot is left to others, and there may be more versions than slots.
        """
        *others, heaviest = names
        for name in others:
            await self._warmer.warm(name)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._warmer.hold(heaviest, replaces))
            try:
                async with asyncio.timeout(_HOLD_MORE_SECONDS):
                    for name in others[::-1][: max(self._slots - 2, 0)]:
                        await stack.enter_async_context(self._warmer.hold(name))
            except (TimeoutError, ResourceExhausted):
                _log.info("routed versions are not all held", versions=[str(n) for n in names])
            yield
