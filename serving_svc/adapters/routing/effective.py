"""The routes in effect on this replica: what a walk or a promotion found, merged in any order.

Looks at the store, promotions and refusals overlap. Here each is taken in at one instant, and what
was overtaken meanwhile changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from serving_svc.adapters.routing.absent import retry_seconds
from serving_svc.adapters.routing.routes_on_disk import RoutesOnDisk
from serving_svc.adapters.routing.walk import Refusal, Walked
from serving_svc.metrics import ServingMetrics
from tailorbird.names import AdapterName, VersionName
from tailorbird.routes import Route

_log = structlog.get_logger(__name__)

# Every so many looks at the head, a look whether its versions are still there.
_LOOKS_PER_CHECK = 10


@dataclass(slots=True)
class KnownRoute:
    """What this replica knows of an adapter's routes; times are the router's clock."""

    head: Route
    effective: Route
    settled: int
    """Newest generation that has been put to the gate, passed or not."""
    used: float
    tried: float
    """When the head was last looked for."""
    read: float
    """When it was last found out."""
    refusal: Refusal | None = None
    """Why `settled` is not in effect."""
    retry_at: float = float("inf")
    failures: int = 0
    looks: int = 0
    doubted: bool = False
    """Whether a version of the effective route may be deleted."""

    def check_due(self) -> bool:
        """Whether to look if the effective route's versions are still there.

        Nobody deletes what the head leads to; but what is in effect only here may be deleted.
        """
        doubted, self.doubted = self.doubted, False
        lags = self.effective.generation < self.head.generation
        return doubted or lags or self.looks % _LOOKS_PER_CHECK == 0


class EffectiveRoutes:
    """The known routes, kept on disk as well; `retire` is told of versions that lost theirs."""

    def __init__(
        self,
        retire: Callable[[VersionName], None],
        saved: RoutesOnDisk,
        metrics: ServingMetrics,
        clock: Callable[[], float],
    ) -> None:
        self._retire = retire
        self._saved = saved
        self._metrics = metrics
        self._clock = clock
        self._known: dict[AdapterName, KnownRoute] = {}

    def get(self, adapter: AdapterName) -> KnownRoute | None:
        """Return what is known of the adapter."""
        return self._known.get(adapter)

    def items(self) -> list[tuple[AdapterName, KnownRoute]]:
        """Return what is known, as of now."""
        return list(self._known.items())

    def learn(self, adapter: AdapterName, head: Route, route: Route, walked: Walked) -> KnownRoute:
        """Take in that a walk from `head` ended at `route`; what is newer and known stays."""
        known = self._known.get(adapter)
        if known is None:
            now = self._clock()
            known = KnownRoute(head, route, 0, used=now, tried=now, read=now)
            self._known[adapter] = known
            self._saved.save(adapter, route)
        elif head.generation > known.head.generation:
            known.head = head
        self._note(known, head, walked)
        self._flip(adapter, known, route, None)
        return known

    def settle(
        self,
        adapter: AdapterName,
        known: KnownRoute,
        head: Route,
        walked: Walked,
        gone: Route | None,
    ) -> bool:
        """Take in a walk from `head` that began at `known`; False if nothing is left to serve.

        `gone` is the effective route it began with if that may not be served any more.
        """
        if self._known.get(adapter) is not known:
            return True
        if walked.route is not None:
            self._note(known, head, walked)
            self._flip(adapter, known, walked.route, gone)
            return True
        if known.effective is not gone:
            return True
        self.forget(adapter)
        self._retire_of(adapter, known.effective, None)
        return False

    def spill(self, adapter: AdapterName) -> None:
        """Keep the adapter's route on disk only."""
        self._known.pop(adapter, None)

    def forget(self, adapter: AdapterName) -> None:
        """Keep the adapter's route nowhere: it may not be served."""
        self._known.pop(adapter, None)
        self._saved.drop(adapter)

    def _note(self, known: KnownRoute, head: Route, walked: Walked) -> None:
        """Note that all up to `head` is put to the gate, and when to try again what was refused."""
        if head.generation < known.settled:
            return
        known.settled = head.generation
        known.refusal = walked.refusals[0] if walked.refusals else None
        known.failures = known.failures + 1 if walked.retryable else 0
        wait = retry_seconds(known.failures) if walked.retryable else float("inf")
        known.retry_at = self._clock() + wait

    def _flip(
        self, adapter: AdapterName, known: KnownRoute, route: Route, gone: Route | None
    ) -> None:
        """Put `route` into effect if it is newer, or what is in effect is `gone`."""
        before = known.effective
        if route.generation <= before.generation and before is not gone:
            return
        known.effective = route
        self._saved.save(adapter, route)
        if route.splits_like(before.versions):
            return
        self._metrics.route_flips.inc()
        self._retire_of(adapter, before, route)
        _log.info(
            "route flipped",
            adapter=str(adapter),
            generation=route.generation,
            version=route.version,
            before=before.version,
        )

    def _retire_of(self, adapter: AdapterName, before: Route, after: Route | None) -> None:
        for routed in before.versions:
            if after is None or not after.leads_to(routed.version):
                self._retire(adapter.version(routed.version))
