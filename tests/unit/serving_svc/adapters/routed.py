"""Routes on a real store in a folder, which can hang or fail, and a gate that can refuse."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry

from serving_svc.adapters.routing import Router, RoutesOnDisk
from serving_svc.metrics import ServingMetrics
from tailorbird.errors import AdapterRefused, StoreUnavailable
from tailorbird.names import AdapterName, VersionName
from tailorbird.object_store import ObjectInfo, ObstoreStore, open_store
from tailorbird.registry import AdapterRegistry
from tailorbird.routes import Route, RoutedVersion, RouteReason
from tests.unit.serving_svc.fakes import manifest as manifest

ADAPTER = AdapterName("acme", "support")
T = TypeVar("T")


def version(number: int, adapter: AdapterName = ADAPTER) -> VersionName:
    return adapter.version(f"20260101T0000{number:02d}-job-1")


def split(**weights: int) -> tuple[RoutedVersion, ...]:
    """Return routed versions from v1=90, v2=10."""
    return tuple(
        RoutedVersion(version=version(int(name[1:])).version, weight=weight)
        for name, weight in weights.items()
    )


def route(
    generation: int,
    number: int = 0,
    reason: RouteReason = "publish",
    versions: tuple[RoutedVersion, ...] = (),
) -> Route:
    return Route(
        generation=generation,
        versions=versions or split(**{f"v{number}": 100}),
        reason=reason,
        actor="test",
        create_time=datetime(2026, 1, 1, tzinfo=UTC),
        nonce=f"{generation}-{number}",
    )


def refused(reason: str = "NOT_FINITE", *, retryable: bool = False) -> AdapterRefused:
    return AdapterRefused("it is broken", reason=reason, retryable=retryable)


class Clock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Rule:
    """What becomes of the calls that match: they wait for `open`, then fail if `error`."""

    pattern: str
    after: bool
    error: bool
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    open: asyncio.Event = field(default_factory=asyncio.Event)

    async def apply(self, call: str, after: bool) -> None:
        if after == self.after and re.search(self.pattern, call):
            self.entered.set()
            await self.open.wait()
            if self.error:
                raise StoreUnavailable(f"down: {call}")


class ScriptedStore:
    """A real store whose calls ("get KEY", "list FOLDER", ...) can hang or fail.

    Before they have had their effect, or after.
    """

    def __init__(self, real: ObstoreStore) -> None:
        self.real = real
        self.calls: list[str] = []
        self.rules: list[Rule] = []

    def hang(self, pattern: str = "", *, after: bool = False) -> Rule:
        self.rules.append(Rule(pattern, after, error=False))
        return self.rules[-1]

    def fail(self, pattern: str = "", *, after: bool = False) -> Rule:
        self.rules.append(Rule(pattern, after, error=True))
        self.rules[-1].open.set()
        return self.rules[-1]

    def heal(self) -> None:
        for rule in self.rules:
            rule.open.set()
        self.rules.clear()

    def count(self) -> Counter[str]:
        """Return how many calls of each kind were made since the last count."""
        calls, self.calls = self.calls, []
        return Counter(call.partition(" ")[0] for call in calls)

    async def _apply(self, call: str, work: Awaitable[T]) -> T:
        self.calls.append(call)
        rules = list(self.rules)
        try:
            for rule in rules:
                await rule.apply(call, after=False)
        except BaseException:
            if asyncio.iscoroutine(work):
                work.close()
            raise
        try:
            return await work
        finally:
            for rule in rules:
                await rule.apply(call, after=True)

    async def get(self, key: str, max_bytes: int | None = None) -> bytes:
        return await self._apply(f"get {key}", self.real.get(key, max_bytes))

    async def read(self, key: str) -> AsyncGenerator[memoryview]:
        await self._apply(f"read {key}", asyncio.sleep(0))
        async for piece in self.real.read(key):
            yield piece

    async def create(self, key: str, data: bytes) -> None:
        await self._apply(f"create {key}", self.real.create(key, data))

    async def put(self, key: str, data: bytes) -> None:
        await self._apply(f"put {key}", self.real.put(key, data))

    async def delete(self, key: str) -> None:
        await self._apply(f"delete {key}", self.real.delete(key))

    async def folders(self, prefix: str) -> list[str]:
        return await self._apply(f"folders {prefix}", self.real.folders(prefix))

    async def objects(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        await self._apply(f"list {prefix}", asyncio.sleep(0))
        async for info in self.real.objects(prefix):
            yield info

    async def download(self, key: str, path: Path) -> int:
        return await self._apply(f"download {key}", self.real.download(key, path))

    async def upload(self, key: str, path: Path) -> None:
        await self._apply(f"upload {key}", self.real.upload(key, path))


class Gate:
    """Remembers which versions were put through, and refuses or delays some."""

    def __init__(self) -> None:
        self.errors: dict[VersionName, Exception] = {}
        self.asked: list[VersionName] = []
        self.retired: list[VersionName] = []
        self.dropped: list[VersionName] = []
        self.held: list[VersionName] = []
        self.most_held = 0
        self.replaced: list[VersionName | None] = []
        self.slots = 8
        self.entered: dict[VersionName, asyncio.Event] = {}
        self.closed: dict[VersionName, asyncio.Event] = {}
        self._left = asyncio.Condition()

    def close(self, asked: VersionName) -> asyncio.Event:
        """Let no one through with this version until the event is set."""
        self.entered[asked] = asyncio.Event()
        self.closed[asked] = asyncio.Event()
        return self.closed[asked]

    async def warm(self, asked: VersionName, replaces: VersionName | None = None) -> None:
        self.asked.append(asked)
        self.replaced.append(replaces)
        if asked in self.closed:
            self.entered[asked].set()
            await self.closed[asked].wait()
        if asked in self.errors:
            raise self.errors[asked]

    @asynccontextmanager
    async def hold(
        self, asked: VersionName, replaces: VersionName | None = None
    ) -> AsyncIterator[None]:
        await self.warm(asked, replaces)
        async with self._left:
            await self._left.wait_for(lambda: len(self.held) < self.slots)
            self.held.append(asked)
        self.most_held = max(self.most_held, len(self.held))
        try:
            yield
        finally:
            self.held.remove(asked)
            async with self._left:
                self._left.notify_all()

    def retire(self, asked: VersionName) -> None:
        self.retired.append(asked)

    def drop(self, asked: VersionName) -> None:
        self.retired.append(asked)
        self.dropped.append(asked)


class Parts:
    """A router around a real registry, with a clock and a gate of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = ScriptedStore(open_store((folder / "store").as_uri()))
        self.registry = AdapterRegistry(self.store)
        self.gate = Gate()
        self.clock = Clock()
        self.metrics = ServingMetrics(CollectorRegistry())
        self._routers: list[Router] = []
        self.router = self.new_router()

    def new_router(self, **changes: Any) -> Router:
        """Return what another process, or this one started again, would have."""
        saved = RoutesOnDisk(self.folder / "routes", delay=0)
        options: dict[str, Any] = {"poll_interval": 2.0, "clock": self.clock} | changes
        router = Router(self.registry, self.gate, self.metrics, saved, **options)
        self._routers.append(router)
        return router

    async def restart(self, **changes: Any) -> None:
        await self.router.close()
        self.router = self.new_router(**changes)

    async def close(self) -> None:
        self.store.heal()
        for router in self._routers:
            await router.close()

    async def publish(self, *numbers: int, adapter: AdapterName = ADAPTER) -> None:
        for number in numbers:
            name = version(number, adapter)
            await self.registry.publish(name, manifest(name))

    async def route(self, *numbers: int) -> None:
        """Publish versions, and append a route to each, as another replica would."""
        await self.publish(*numbers)
        registry = AdapterRegistry(self.store.real)
        head = await registry.head(ADAPTER)
        first = head.generation + 1 if head else 1
        for generation, number in enumerate(numbers, first):
            await registry.append_route(ADAPTER, route(generation, number))

    async def look(self) -> None:
        """Look at the routes now, and wait for what comes of it."""
        self.router.poll()
        await self.settled()

    async def settled(self) -> None:
        """Wait for the looks that are under way."""
        while tasks := [
            *self.router._looks._tasks.values(),
            *self.router._named._checks._tasks.values(),
        ]:
            await asyncio.gather(*tasks, return_exceptions=True)

    async def generation(self, **options: Any) -> int:
        return (await self.router.resolve(ADAPTER, **options)).generation

    def flips(self) -> float:
        return float(self.metrics.route_flips._value.get())


async def turns(count: int = 20) -> None:
    """Let everything that can run do so."""
    for _ in range(count):
        await asyncio.sleep(0)
