"""Which version answers for an adapter: the route log, as far as the gate lets it through.

The effective route is the newest generation whose version passes the gate. It changes only after
the new version is in the engine, so a request never waits for a swap. An adapter without a route
that passes is an error, never the base model.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import structlog

from serving_svc.adapters.single_flight import SingleFlight
from serving_svc.metrics import ServingMetrics
from tailorbird.errors import (
    AdapterRefused,
    DataCorrupt,
    FailedPrecondition,
    NotFound,
    TailorbirdError,
    Unavailable,
)
from tailorbird.names import AdapterName, VersionName
from tailorbird.registry import AdapterRegistry, Route

_log = structlog.get_logger(__name__)

# An adapter without a request for this long is looked at when the next one comes, not before.
_ACTIVE_SECONDS = 300.0
_CONCURRENT_POLLS = 32


@dataclass(slots=True)
class _Known:
    head: Route
    effective: Route
    settled: int
    """Newest generation that has been put to the gate, passed or not."""
    used: float
    checked: float


class Router:
    """Keeps the effective route of every adapter that this replica has had a request for.

    `warm` puts a version through the gate and into the engine; `retire` is told which version was
    replaced. `poll_interval` is in seconds.
    """

    def __init__(
        self,
        registry: AdapterRegistry,
        warm: Callable[[VersionName], Awaitable[None]],
        retire: Callable[[VersionName], None],
        metrics: ServingMetrics,
        poll_interval: float,
    ) -> None:
        self._registry = registry
        self._warm = warm
        self._retire = retire
        self._metrics = metrics
        self._interval = poll_interval
        self._known: dict[AdapterName, _Known] = {}
        self._updates: SingleFlight[AdapterName, Route] = SingleFlight()
        self._polls = asyncio.Semaphore(_CONCURRENT_POLLS)
        self._store_down = False

    async def resolve(self, adapter: AdapterName) -> Route:
        """Return the effective route.

        Waits only for an adapter that had no request lately. Raises NotFound if the adapter has no
        published version, FailedPrecondition if it was never routed, AdapterRefused if no route's
        version passes the gate, and StoreUnavailable.
        """
        now = time.monotonic()
        known = self._known.get(adapter)
        if known is None or now - known.checked > 3 * self._interval:
            route = await self._updates.run(adapter, partial(self._update, adapter))
            if (known := self._known.get(adapter)) is not None:
                known.used = now
            return route
        known.used = now
        return known.effective

    def effective_generation(self, adapter: AdapterName) -> int:
        """Return the generation in effect, or 0 if there was no request for the adapter yet."""
        known = self._known.get(adapter)
        return known.effective.generation if known else 0

    def adopt(self, adapter: AdapterName, route: Route) -> None:
        """Put a route into effect at once, whose version is in the engine."""
        now = time.monotonic()
        known = self._known.setdefault(
            adapter, _Known(route, route, route.generation, used=now, checked=now)
        )
        if route.generation > known.head.generation:
            known.head = route
        known.settled = max(known.settled, route.generation)
        self._flip(adapter, known, route)

    def forget(self, adapter: AdapterName) -> None:
        """Find the adapter's route anew at the next request."""
        self._known.pop(adapter, None)

    async def run(self) -> None:
        """Look at the routes of adapters with traffic, for ever."""
        while True:
            await asyncio.sleep(self._interval * random.uniform(0.5, 1.0))  # noqa: S311
            self.poll()

    def poll(self) -> None:
        """Begin to look at the route of every adapter with traffic."""
        oldest = time.monotonic() - _ACTIVE_SECONDS
        for adapter in [name for name, known in self._known.items() if known.used >= oldest]:
            self._updates.begin(adapter, partial(self._update, adapter))

    async def close(self) -> None:
        """End the looks that are under way."""
        await self._updates.close()

    async def _update(self, adapter: AdapterName) -> Route:
        known = self._known.get(adapter)
        if known is None:
            return await self._first(adapter)
        try:
            async with self._polls, asyncio.timeout(max(self._interval, 5.0)):
                head = await self._registry.head(adapter, after=known.head)
        except (Unavailable, DataCorrupt, TimeoutError) as error:
            self._store_failed(error)
            return known.effective
        finally:
            known.checked = time.monotonic()
        self._store_down = False
        if head is not None and head.generation > known.head.generation:
            known.head = head
        if known.head.generation > known.settled:
            await self._advance(adapter, known)
        return known.effective

    async def _first(self, adapter: AdapterName) -> Route:
        head = await self._registry.head(adapter)
        if head is None:
            if not await self._registry.versions(adapter):
                raise NotFound(adapter, reason="ADAPTER_NOT_FOUND")
            raise FailedPrecondition(
                f"{adapter} has no route: promote one of its versions",
                reason="ADAPTER_NOT_ROUTED",
                adapter=adapter,
            )
        effective = await self._newest_passing(adapter, head, None)
        now = time.monotonic()
        known = _Known(head, effective, head.generation, used=now, checked=now)
        # A promotion may have come first, with a newer route.
        return self._known.setdefault(adapter, known).effective

    async def _advance(self, adapter: AdapterName, known: _Known) -> None:
        head = known.head
        try:
            route = await self._newest_passing(adapter, head, known.effective)
        except Exception as error:
            # The old version goes on; the next look tries again.
            unexpected = not isinstance(error, TailorbirdError)
            _log.warning(
                "new route waits",
                adapter=str(adapter),
                generation=head.generation,
                error=str(error),
                exc_info=unexpected,
            )
            return
        known.settled = max(known.settled, head.generation)
        self._flip(adapter, known, route)

    async def _newest_passing(
        self, adapter: AdapterName, head: Route, current: Route | None
    ) -> Route:
        """Walk back from `head` to a route that passes, or to `current`, which has passed."""
        refusals: list[AdapterRefused] = []
        route: Route | None = head
        while route is not None:
            if current is not None and route.generation <= current.generation:
                return current
            try:
                await self._warm(adapter.version(route.version))
                return route
            except AdapterRefused as refusal:
                refusals.append(refusal)
            except NotFound as error:
                text = f"route {route.generation} of {adapter} leads nowhere: {error.message}"
                refusals.append(AdapterRefused(text, reason="VERSION_NOT_FOUND"))
            route = await self._registry.before(adapter, route.generation)
        if current is not None:
            return current
        raise refusals[0]

    def _flip(self, adapter: AdapterName, known: _Known, route: Route) -> None:
        before = known.effective
        if route.generation <= before.generation:
            return
        known.effective = route
        if route.version == before.version:
            return
        self._metrics.route_flips.inc()
        self._retire(adapter.version(before.version))
        _log.info(
            "route flipped",
            adapter=str(adapter),
            generation=route.generation,
            version=route.version,
            before=before.version,
        )

    def _store_failed(self, error: Exception) -> None:
        if not self._store_down:
            _log.warning("routes cannot be read; the known ones stay in effect", error=str(error))
        self._store_down = True
