from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from serving_svc.adapters.router import Router
from tailorbird.errors import (
    AdapterRefused,
    FailedPrecondition,
    NotFound,
    StoreUnavailable,
)
from tailorbird.names import AdapterName, VersionName
from tailorbird.object_store import ObstoreStore, open_store
from tailorbird.registry import AdapterRegistry
from tests.unit.serving_svc.fakes import ADAPTER, manifest, new_metrics, refused, route, version


class Gate:
    """Remembers which versions were put through, and refuses or holds some."""

    def __init__(self) -> None:
        self.errors: dict[VersionName, Exception] = {}
        self.asked: list[VersionName] = []
        self.retired: list[VersionName] = []
        self.open = asyncio.Event()
        self.open.set()
        self.entered = asyncio.Event()

    async def warm(self, asked: VersionName) -> None:
        self.asked.append(asked)
        self.entered.set()
        await self.open.wait()
        if asked in self.errors:
            raise self.errors[asked]


class Store(ObstoreStore):
    """A store that can be down."""

    down = False

    async def get(self, key: str, max_bytes: int | None = None) -> bytes:
        if self.down:
            raise StoreUnavailable("down")
        return await super().get(key, max_bytes)


@pytest.fixture
async def gate() -> Gate:
    return Gate()


@pytest.fixture
async def store(tmp_path: Path) -> Store:
    return Store(open_store(tmp_path.as_uri())._backend)


@pytest.fixture
async def registry(store: Store) -> AdapterRegistry:
    return AdapterRegistry(store)


@pytest.fixture
async def router(registry: AdapterRegistry, gate: Gate) -> Router:
    return Router(registry, gate.warm, gate.retired.append, new_metrics(), 100)


async def write(registry: AdapterRegistry, *numbers: int) -> None:
    head = await registry.head(ADAPTER)
    first = head.generation + 1 if head else 1
    for generation, number in enumerate(numbers, first):
        await registry.append_route(ADAPTER, route(generation, number))


async def look(router: Router) -> None:
    """Look at the routes now, and wait for what comes of it."""
    router.poll()
    await asyncio.gather(*router._updates._tasks.values())


async def test_the_newest_route_answers(
    router: Router, registry: AdapterRegistry, gate: Gate
) -> None:
    await write(registry, 1, 2)
    assert (await router.resolve(ADAPTER)).version == version(2).version
    assert router.effective_generation(ADAPTER) == 2
    assert gate.asked == [version(2)]


async def test_a_cold_adapter_is_looked_up_once_for_all_who_ask(
    router: Router, registry: AdapterRegistry, gate: Gate
) -> None:
    await write(registry, 1)
    await asyncio.gather(*(router.resolve(ADAPTER) for _ in range(5)))
    assert gate.asked == [version(1)]


async def test_without_a_version_the_adapter_is_not_there(router: Router) -> None:
    with pytest.raises(NotFound):
        await router.resolve(ADAPTER)
    assert router.effective_generation(ADAPTER) == 0


async def test_without_a_route_the_state_is_wrong(
    router: Router, registry: AdapterRegistry
) -> None:
    await registry.publish(version(1), manifest(version(1)))
    with pytest.raises(FailedPrecondition) as caught:
        await router.resolve(ADAPTER)
    assert caught.value.reason == "ADAPTER_NOT_ROUTED"


async def test_the_walk_goes_back_to_a_version_that_passes(
    router: Router, registry: AdapterRegistry, gate: Gate
) -> None:
    await write(registry, 1, 2, 3)
    gate.errors = {version(3): refused(), version(2): NotFound(version(2))}
    assert (await router.resolve(ADAPTER)).generation == 1
    assert gate.asked == [version(3), version(2), version(1)]


async def test_when_all_are_refused_the_newest_reason_is_told(
    router: Router, registry: AdapterRegistry, gate: Gate
) -> None:
    await write(registry, 1, 2)
    gate.errors = {version(2): refused("PROBE_MISMATCH"), version(1): refused("NOT_FINITE")}
    with pytest.raises(AdapterRefused) as caught:
        await router.resolve(ADAPTER)
    assert caught.value.reason == "PROBE_MISMATCH"


async def test_a_store_that_is_down_does_not_walk_back(
    router: Router, registry: AdapterRegistry, gate: Gate
) -> None:
    await write(registry, 1, 2)
    gate.errors = {version(2): StoreUnavailable("down")}
    with pytest.raises(StoreUnavailable):
        await router.resolve(ADAPTER)
    gate.errors.clear()
    assert (await router.resolve(ADAPTER)).generation == 2


async def test_the_old_version_answers_until_the_new_one_is_loaded(
    router: Router, registry: AdapterRegistry, gate: Gate
) -> None:
    await write(registry, 1)
    await router.resolve(ADAPTER)
    await write(registry, 2)
    gate.open.clear()
    gate.entered.clear()
    router.poll()
    await gate.entered.wait()
    assert (await router.resolve(ADAPTER)).generation == 1
    gate.open.set()
    await look(router)
    assert (await router.resolve(ADAPTER)).generation == 2
    assert gate.retired == [version(1)]


async def test_a_refused_new_version_is_tried_once(
    router: Router, registry: AdapterRegistry, gate: Gate
) -> None:
    await write(registry, 1)
    await router.resolve(ADAPTER)
    await write(registry, 2)
    gate.errors = {version(2): refused()}
    for _ in range(3):
        await look(router)
    assert (await router.resolve(ADAPTER)).generation == 1
    assert gate.asked == [version(1), version(2)]
    await write(registry, 3)
    await look(router)
    assert (await router.resolve(ADAPTER)).generation == 3


async def test_a_new_version_that_cannot_be_fetched_yet_is_tried_again(
    router: Router, registry: AdapterRegistry, gate: Gate
) -> None:
    await write(registry, 1)
    await router.resolve(ADAPTER)
    await write(registry, 2)
    gate.errors = {version(2): StoreUnavailable("down")}
    await look(router)
    assert (await router.resolve(ADAPTER)).generation == 1
    gate.errors.clear()
    await look(router)
    assert (await router.resolve(ADAPTER)).generation == 2


async def test_what_is_known_answers_while_the_store_is_down(
    router: Router, registry: AdapterRegistry, store: Store
) -> None:
    await write(registry, 1)
    await router.resolve(ADAPTER)
    store.down = True
    await look(router)
    assert (await router.resolve(ADAPTER)).generation == 1
    with pytest.raises(NotFound):
        await router.resolve(AdapterName("acme", "unknown"))
    store.down = False
    await write(registry, 2)
    await look(router)
    assert (await router.resolve(ADAPTER)).generation == 2


async def test_an_adopted_route_is_in_effect_at_once(
    router: Router, registry: AdapterRegistry, gate: Gate
) -> None:
    await write(registry, 1, 2)
    await router.resolve(ADAPTER)
    newer = route(3, 1, "rollback")
    await registry.append_route(ADAPTER, newer)
    router.adopt(ADAPTER, newer)
    assert await router.resolve(ADAPTER) == newer
    await look(router)
    assert await router.resolve(ADAPTER) == newer
    assert gate.asked == [version(2)]


async def test_a_forgotten_adapter_is_looked_up_anew(
    router: Router, registry: AdapterRegistry, gate: Gate
) -> None:
    await write(registry, 1, 2)
    await router.resolve(ADAPTER)
    gate.errors = {version(2): refused()}
    router.forget(ADAPTER)
    assert (await router.resolve(ADAPTER)).generation == 1
