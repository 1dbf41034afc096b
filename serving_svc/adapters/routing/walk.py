"""From the head of a route log back to the newest route whose every version passes the gate."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from serving_svc.adapters.routing.reads import BoundedReads
from tailorbird.errors import AdapterRefused, NotFound, Unavailable
from tailorbird.names import AdapterName, VersionName
from tailorbird.registry import AdapterRegistry
from tailorbird.routes import Route, RoutedVersion


class Gate(Protocol):
    """What walking needs of the gate."""

    async def warm(self, version: VersionName, replaces: VersionName | None = None) -> None:
        """Put a version through the gate and into the engine; AdapterRefused, NotFound.

        If all slots are busy, best that of `replaces` drains for it.
        """


def replaced_by(
    adapter: AdapterName, versions: Sequence[RoutedVersion], before: Route | None
) -> VersionName | None:
    """Return the heaviest version of the route before that has no share any more, or None."""
    kept = {routed.version for routed in versions}
    gone = [routed for routed in before.versions if routed.version not in kept] if before else []
    if not gone:
        return None
    return adapter.version(max(gone, key=lambda routed: routed.weight).version)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a route was passed over, and whether it may be taken later."""

    reason: str
    message: str
    retryable: bool

    def error(self) -> AdapterRefused:
        """Return it as what a caller gets."""
        return AdapterRefused(self.message, reason=self.reason, retryable=self.retryable)


@dataclass(frozen=True, slots=True)
class Walked:
    """Where a walk ended: `route` None if nothing passed; `refusals` of those passed over."""

    route: Route | None
    refusals: tuple[Refusal, ...]

    @property
    def retryable(self) -> bool:
        """Whether a later walk may end at a newer route."""
        return any(refusal.retryable for refusal in self.refusals)


class RouteWalk:
    """Asks, for one route after the other, whether its versions are there and pass."""

    def __init__(self, registry: AdapterRegistry, gate: Gate, reads: BoundedReads) -> None:
        self._registry = registry
        self._gate = gate
        self._reads = reads

    async def newest_passing(
        self, adapter: AdapterName, head: Route, floor: Route | None
    ) -> Walked:
        """Walk from `head` back to a route that passes, or to `floor`, which has passed.

        One listing if `head` is refused. Raises Unavailable, ResourceExhausted: what cannot be
        judged now is not walked past.
        """
        refusals: list[Refusal] = []
        judged: dict[str, Refusal] = {}
        async with aclosing(self._back_from(adapter, head)) as routes:
            async for route in routes:
                if floor is not None and route.generation <= floor.generation:
                    break
                refusal = await self._refusal(adapter, route, floor, judged)
                if refusal is None:
                    return Walked(route, tuple(refusals))
                refusals.append(refusal)
        return Walked(floor, tuple(refusals))

    async def is_gone(self, adapter: AdapterName, route: Route) -> bool:
        """Tell whether a version of `route` is deleted or vanished; a store that is down: no."""
        try:
            for routed in route.versions:
                await self._reads.run(self._registry.check_present(adapter.version(routed.version)))
        except NotFound:
            return True
        except Unavailable:
            return False
        return False

    async def warm(self, adapter: AdapterName, route: Route) -> None:
        """Put every version through the gate, the heaviest last; raises what the gate raises."""
        for routed in sorted(route.versions, key=lambda routed: routed.weight):
            await self._gate.warm(adapter.version(routed.version))

    async def _back_from(self, adapter: AdapterName, head: Route) -> AsyncGenerator[Route]:
        yield head
        async with aclosing(self._registry.earlier(adapter, head.generation)) as routes:
            while (route := await self._reads.run(anext(routes, None))) is not None:
                yield route

    async def _refusal(
        self, adapter: AdapterName, route: Route, floor: Route | None, judged: dict[str, Refusal]
    ) -> Refusal | None:
        """Return why the route is passed over; `judged` are versions this walk has seen refused."""
        replaces = replaced_by(adapter, route.versions, floor)
        for routed in sorted(route.versions, key=lambda routed: routed.weight):
            if routed.version in judged:
                return judged[routed.version]
            version = adapter.version(routed.version)
            try:
                # It may be in the engine and gone from the store.
                await self._reads.run(self._registry.check_present(version))
                await self._gate.warm(version, replaces)
            except AdapterRefused as error:
                refusal = Refusal(error.reason, error.message, error.retryable)
            except NotFound as error:
                text = f"route {route.generation} of {adapter} leads nowhere: {error.message}"
                deleted = error.reason == "VERSION_DELETED"
                reason = error.reason if deleted else "VERSION_NOT_FOUND"
                refusal = Refusal(reason, text, retryable=not deleted)
            else:
                continue
            judged[routed.version] = refusal
            return refusal
        return None
