"""Which version answers for an adapter: the route log, as far as the gate lets it through.

The effective route is the newest generation whose every version passes the gate. It changes only
after the new versions were in the engine, so a request never waits for a swap. An adapter without a
route that passes is an error, never the base model.

What is known is served at once and looked at behind: a store that hangs delays only adapters that
this replica knows nothing of. A look that was overtaken by a promotion changes nothing.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import structlog

from serving_svc.adapters.routing.absent import AbsentAdapters, MakeError
from serving_svc.adapters.routing.effective import EffectiveRoutes, KnownRoute
from serving_svc.adapters.routing.named import NamedVersions
from serving_svc.adapters.routing.reads import BoundedReads
from serving_svc.adapters.routing.routes_on_disk import RoutesOnDisk
from serving_svc.adapters.routing.split import choose
from serving_svc.adapters.routing.walk import RouteWalk, Walked
from serving_svc.adapters.single_flight import SingleFlight
from serving_svc.metrics import ServingMetrics
from tailorbird.errors import FailedPrecondition, NotFound, TailorbirdError, Unavailable
from tailorbird.names import AdapterName, VersionName
from tailorbird.registry import AdapterRegistry
from tailorbird.routes import Route

_log = structlog.get_logger(__name__)

# An adapter without a request for this long is looked at when the next one comes, not before.
_ACTIVE_SECONDS = 300.0
# Without a request for this long its route is kept on disk only.
_FORGET_SECONDS = 3600.0
_CONCURRENT_POLLS = 32


class Warmer(Protocol):
    """What the router needs of the engine's slots."""

    async def warm(self, version: VersionName, replaces: VersionName | None = None) -> None:
        """Put a version through the gate and into the engine; AdapterRefused, NotFound.

        If all slots are busy, best that of `replaces` drains for it.
        """

    def retire(self, version: VersionName) -> None:
        """Let a version that is no longer routed be the first to leave."""

    def drop(self, version: VersionName) -> None:
        """Let go of a version that was deleted: its pin, its slot, its files here."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """The version that answers, and the generation of the route that chose it (0: its name did)."""

    version: VersionName
    generation: int


class Router:
    """Keeps the effective route of every adapter that this replica has had a request for.

    Times are in seconds: `poll_interval` between two looks at an adapter with traffic, at most;
    `read_timeout` for one look at the store; `reach_timeout` for a generation that a request
    demands to be in effect.
    """

    def __init__(
        self,
        registry: AdapterRegistry,
        warmer: Warmer,
        metrics: ServingMetrics,
        saved: RoutesOnDisk,
        *,
        poll_interval: float,
        read_timeout: float = 5.0,
        reach_timeout: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._warmer = warmer
        self._saved = saved
        self._interval = poll_interval
        self._reach_timeout = reach_timeout
        self._clock = clock
        self._reads = BoundedReads(read_timeout)
        self._walk = RouteWalk(registry, warmer, self._reads)
        self._named = NamedVersions(registry, warmer.retire, warmer.drop, self._reads, clock)
        self._known = EffectiveRoutes(warmer.retire, saved, metrics, clock)
        self._absent = AbsentAdapters(clock)
        self._looks: SingleFlight[AdapterName, None] = SingleFlight()
        self._polls = asyncio.Semaphore(_CONCURRENT_POLLS)
        self._closed = False

    async def resolve(
        self, adapter: AdapterName, routing_key: str = "", min_generation: int = 0
    ) -> Resolved:
        """Return who answers a request; the same version for the same key while the route stays.

        Waits for the store only if nothing is known of the adapter, or `min_generation` is not in
        effect yet. Raises NotFound if the adapter has no published version, FailedPrecondition if
        it was never routed, AdapterRefused if no route's versions pass the gate (or none from
        `min_generation` on), and Unavailable: ROUTES_UNREADABLE, STORE_UNAVAILABLE,
        ROUTE_GENERATION_NOT_REACHED.
        """
        known = self._known.get(adapter) or await self._found(adapter, min_generation)
        known.used = self._clock()
        if known.effective.generation < min_generation:
            known = await self._reached(adapter, min_generation)
        elif known.used - known.tried > 3 * self._interval:
            self._look_behind(adapter)
        route = known.effective
        version = adapter.version(choose(adapter, route.versions, routing_key))
        return Resolved(version, route.generation)

    def named(self, version: VersionName) -> Resolved:
        """Return who answers a request that names its version; NotFound if it is known as deleted.

        Never waits: a version with traffic is looked at each poll.
        """
        self._named.use(version)
        return Resolved(version, 0)

    def effective_generation(self, adapter: AdapterName) -> int:
        """Return the generation in effect, or 0 if there was no request for the adapter lately."""
        known = self._known.get(adapter)
        return known.effective.generation if known else 0

    def leads_to(self, version: VersionName) -> bool:
        """Tell whether the route in effect here gives the version a share."""
        known = self._known.get(version.adapter_name)
        return known is not None and known.effective.leads_to(version.version)

    def adopt(self, adapter: AdapterName, route: Route) -> None:
        """Put a route into effect at once, whose versions have passed the gate."""
        self._absent.clear(adapter)
        self._known.learn(adapter, route, route, Walked(route, ()))

    def deleted(self, version: VersionName) -> None:
        """Serve a version that has been deleted no more, neither by name nor by route."""
        self._named.mark_deleted(version)
        known = self._known.get(version.adapter_name)
        if known is not None and known.effective.leads_to(version.version):
            known.doubted = True
            self._look_behind(version.adapter_name)

    def forget(self, adapter: AdapterName, generation: int = 0) -> None:
        """Walk the adapter's routes anew at the next request: what was in effect is refused now.

        With `generation`, only if that one is still in effect.
        """
        if generation in (0, self.effective_generation(adapter)):
            self._known.forget(adapter)

    async def run(self) -> None:
        """Look at the routes of adapters with traffic, for ever."""
        while True:
            await asyncio.sleep(self._interval * random.uniform(0.5, 1.0))  # noqa: S311
            self.poll()

    def poll(self) -> None:
        """Begin to look at every adapter and named version with traffic; forget the idle."""
        if self._closed:
            return
        now = self._clock()
        for adapter, known in self._known.items():
            if known.used >= now - _ACTIVE_SECONDS:
                self._look_behind(adapter)
            elif known.used < now - _FORGET_SECONDS:
                self._known.spill(adapter)
        for adapter, head in self._absent.refused_heads(now - _ACTIVE_SECONDS):
            self._looks.begin(adapter, partial(self._look_at_refused, adapter, head))
        self._named.poll(now - _ACTIVE_SECONDS)

    async def close(self) -> None:
        """End the looks that are under way; no other begins. Keep on disk what is in effect."""
        self._closed = True
        await self._looks.close()
        await self._named.close()
        await self._saved.close()

    async def _found(self, adapter: AdapterName, min_generation: int) -> KnownRoute:
        self._absent.check(adapter, min_generation)
        while (known := self._known.get(adapter)) is None:
            try:
                await self._look_now(adapter)
            except TailorbirdError:
                # A promotion may have come first.
                if self._known.get(adapter) is None:
                    raise
        return known

    async def _reached(self, adapter: AdapterName, generation: int) -> KnownRoute:
        """Look until `generation` is in effect: for as long as `reach_timeout`, or two looks."""
        try:
            async with asyncio.timeout(self._reach_timeout):
                # A look that is under way may have read before the route was written.
                for _ in range(2):
                    await self._look_now(adapter)
                    known = await self._found(adapter, generation)
                    if known.effective.generation >= generation:
                        return known
                    if known.refusal is not None and known.settled >= generation:
                        raise known.refusal.error()
        except TimeoutError:
            pass
        raise Unavailable(
            f"route generation {generation} of {adapter} is not in effect here; "
            f"{self.effective_generation(adapter)} is",
            reason="ROUTE_GENERATION_NOT_REACHED",
            retry_after=self._interval,
            generation=generation,
        )

    async def _look_now(self, adapter: AdapterName) -> None:
        if self._closed:
            raise Unavailable("serving is stopping", reason="SHUTTING_DOWN")
        await self._looks.run(adapter, partial(self._look, adapter))

    def _look_behind(self, adapter: AdapterName) -> None:
        if not self._closed:
            self._looks.begin(adapter, partial(self._look_again, adapter))

    async def _look(self, adapter: AdapterName) -> None:
        if self._known.get(adapter) is not None:
            await self._look_again(adapter)
        else:
            await self._look_first(adapter)

    async def _look_first(self, adapter: AdapterName) -> None:
        """Find the route of an adapter nothing is known of; `resolve` says what it raises."""
        try:
            if await self._learn_kept(adapter, anyones=self._reads.down):
                return
            head = await self._reads.run(self._registry.head(adapter))
            if head is None:
                await self._raise_unrouted(adapter)
                return
            walked = await self._walk.newest_passing(adapter, head, None)
        except Unavailable:
            if not await self._learn_kept(adapter, anyones=True):
                raise
            return
        if walked.route is not None:
            self._known.learn(adapter, head, walked.route, walked)
            self._absent.clear(adapter)
        elif self._known.get(adapter) is None:
            self._refuse(adapter, head, walked)
            raise walked.refusals[0].error()

    async def _raise_unrouted(self, adapter: AdapterName) -> None:
        exists = await self._reads.run(self._registry.has_version(adapter))
        if self._known.get(adapter) is not None:
            return
        error: MakeError = partial(_not_routed if exists else _not_found, adapter)
        self._absent.unrouted(adapter, error, self._interval)
        raise error()

    async def _learn_kept(self, adapter: AdapterName, *, anyones: bool) -> bool:
        """Put the route that is kept on disk into effect, if its versions can be had.

        One of this process is as good as known. One of a process before (`anyones`) is what there
        is while the store is down.
        """
        kept = await self._saved.load(adapter)
        if kept is None or not (kept.of_this_life or anyones):
            return False
        try:
            await self._walk.warm(adapter, kept.route)
        except TailorbirdError as error:
            _log.warning("kept route not used", adapter=str(adapter), error=error.message)
            return False
        known = self._known.learn(adapter, kept.route, kept.route, Walked(kept.route, ()))
        self._absent.clear(adapter)
        # Looked at by the next request, with a listing: it may be far behind, or deleted.
        known.tried = known.read = float("-inf")
        known.doubted = True
        return True

    async def _look_at_refused(self, adapter: AdapterName, head: Route) -> None:
        try:
            async with self._polls:
                newest = await self._reads.run(self._registry.head(adapter, head))
        except Unavailable:
            return
        if newest is not None and newest.generation > head.generation:
            self._absent.clear(adapter)

    async def _look_again(self, adapter: AdapterName) -> None:
        """Look whether a known adapter has a newer route; raises nothing."""
        known = self._known.get(adapter)
        if known is None:
            return
        try:
            if await self._read_head(adapter, known):
                await self._settle(adapter, known)
        except Exception as error:
            # What is in effect goes on; the next look tries again.
            known.doubted = True
            _log.warning(
                "new route waits",
                adapter=str(adapter),
                generation=known.head.generation,
                error=str(error),
                exc_info=not isinstance(error, TailorbirdError),
            )

    async def _read_head(self, adapter: AdapterName, known: KnownRoute) -> bool:
        """Find out the newest route; False if the store does not answer."""
        # The generation after a head known long ago may have been collected.
        after = known.head if self._clock() - known.read <= _ACTIVE_SECONDS else None
        try:
            async with self._polls:
                head = await self._reads.run(self._registry.head(adapter, after))
        except Unavailable:
            return False
        finally:
            known.tried = self._clock()
        known.read = known.tried
        known.looks += 1
        if head is not None and head.generation > known.head.generation:
            known.head = head
        return True

    async def _settle(self, adapter: AdapterName, known: KnownRoute) -> None:
        """Bring the newest route that passes into effect, if that may be another one."""
        head, judged = known.head, known.effective
        gone = False
        if head.generation <= known.settled and self._clock() < known.retry_at:
            gone = known.check_due() and await self._walk.is_gone(adapter, judged)
            if not gone:
                return
        walked = await self._walk.newest_passing(adapter, head, None if gone else judged)
        if not self._known.settle(adapter, known, head, walked, judged if gone else None):
            self._refuse(adapter, head, walked)

    def _refuse(self, adapter: AdapterName, head: Route, walked: Walked) -> None:
        self._absent.refused(adapter, walked.refusals[0].error, head, walked.retryable)


def _not_found(adapter: AdapterName) -> TailorbirdError:
    return NotFound(adapter, reason="ADAPTER_NOT_FOUND")


def _not_routed(adapter: AdapterName) -> TailorbirdError:
    return FailedPrecondition(
        f"{adapter} has no route: promote one of its versions",
        reason="ADAPTER_NOT_ROUTED",
        adapter=adapter,
    )
