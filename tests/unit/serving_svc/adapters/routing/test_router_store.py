"""A store that is down, slow or hangs, and routes kept on disk for it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tailorbird.errors import StoreUnavailable, Unavailable
from tailorbird.names import AdapterName
from tailorbird.registry import AdapterRegistry
from tests.unit.serving_svc.adapters.routed import (
    ADAPTER,
    Parts,
    refused,
    route,
    turns,
    version,
)

# Longer than any test takes: who waits for a store that hangs does not pass.
LONG = 1000.0


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    parts = Parts(tmp_path)
    yield parts
    await parts.close()


async def test_what_is_known_answers_while_the_store_is_down(parts: Parts) -> None:
    await parts.route(1)
    await parts.generation()
    await parts.route(2)
    parts.store.fail()
    parts.store.count()
    for _ in range(3):
        await parts.look()
        parts.clock.now += 2
        assert await parts.generation() == 1
    assert parts.store.count()["get"] >= 3
    with pytest.raises(StoreUnavailable):
        await parts.router.resolve(AdapterName("acme", "unknown"))
    parts.store.heal()
    await parts.look()
    assert await parts.generation() == 2


@pytest.mark.parametrize("idle", [0, 10, 310, 3500])
async def test_a_store_that_hangs_delays_no_known_adapter(parts: Parts, idle: float) -> None:
    await parts.restart(read_timeout=LONG)
    await parts.route(1)
    await parts.generation()
    parts.store.hang()
    parts.clock.now += idle
    parts.router.poll()
    for _ in range(3):
        asked = asyncio.create_task(parts.generation())
        await turns(3)
        assert asked.done()
        assert await asked == 1
        parts.clock.now += 10


async def test_a_store_that_hangs_delays_no_adapter_that_was_idle_for_hours(parts: Parts) -> None:
    await parts.restart(read_timeout=LONG)
    await parts.route(1)
    await parts.generation()
    parts.clock.now += 3601
    parts.router.poll()
    assert parts.router.effective_generation(ADAPTER) == 0
    parts.store.hang()
    assert await parts.generation() == 1


async def test_an_adapter_that_was_idle_for_hours_is_looked_at_behind(parts: Parts) -> None:
    await parts.route(1)
    await parts.generation()
    parts.clock.now += 3601
    parts.router.poll()
    await parts.route(2)
    assert await parts.generation() == 1
    await parts.settled()
    assert await parts.generation() == 2


async def test_a_store_that_hangs_delays_an_unknown_adapter_for_a_bounded_time(
    parts: Parts,
) -> None:
    await parts.restart(read_timeout=0.01)
    await parts.route(1)
    parts.store.hang()
    with pytest.raises(Unavailable) as caught:
        await parts.router.resolve(ADAPTER)
    assert caught.value.reason == "ROUTES_UNREADABLE"
    parts.store.heal()
    parts.router._reads._seconds = LONG
    assert await parts.generation() == 1


async def test_a_demanded_generation_waits_a_bounded_time_for_a_store_that_hangs(
    parts: Parts,
) -> None:
    await parts.restart(read_timeout=LONG, reach_timeout=0.01)
    await parts.route(1)
    await parts.generation()
    parts.store.hang()
    with pytest.raises(Unavailable) as caught:
        await parts.router.resolve(ADAPTER, min_generation=2)
    assert caught.value.reason == "ROUTE_GENERATION_NOT_REACHED"
    assert await parts.generation(min_generation=1) == 1


async def test_polls_are_bounded_in_number(parts: Parts) -> None:
    registry = AdapterRegistry(parts.store.real)
    for number in range(40):
        adapter = AdapterName("acme", f"a{number}")
        await parts.publish(1, adapter=adapter)
        await registry.append_route(adapter, route(1, 1))
        await parts.router.resolve(adapter)
    parts.store.hang()
    parts.store.count()
    parts.router.poll()
    await turns()
    assert parts.store.count() == Counter(get=32)
    parts.store.heal()
    await parts.settled()
    assert parts.store.count() == Counter(get=8)


async def test_after_a_restart_the_kept_route_answers_while_the_store_is_down(
    parts: Parts,
) -> None:
    await parts.route(1, 2)
    await parts.generation()
    await parts.restart()
    await parts.route(3)
    parts.store.fail()
    assert await parts.generation() == 2
    parts.store.heal()
    await parts.generation()
    await parts.settled()
    assert await parts.generation() == 3


async def test_after_a_restart_a_store_that_hangs_delays_only_the_first_adapter(
    parts: Parts,
) -> None:
    registry = AdapterRegistry(parts.store.real)
    other = AdapterName("globex", "support")
    for adapter in (ADAPTER, other):
        await parts.publish(1, adapter=adapter)
        await registry.append_route(adapter, route(1, 1))
        await parts.router.resolve(adapter)
    await parts.restart(read_timeout=0.01)
    parts.store.hang()
    assert await parts.generation() == 1
    await parts.settled()
    parts.store.count()
    assert (await parts.router.resolve(other)).version == version(1, other)
    assert not [call for call in parts.store.calls if call.startswith("list tenants/globex")]


async def test_after_a_restart_the_stores_route_answers_and_not_the_kept_one(
    parts: Parts,
) -> None:
    await parts.route(1)
    await parts.generation()
    await parts.restart()
    await parts.route(2)
    assert await parts.generation() == 2


async def test_a_kept_route_whose_version_is_refused_is_not_used(parts: Parts) -> None:
    await parts.route(1)
    await parts.generation()
    await parts.restart()
    parts.store.fail()
    parts.gate.errors = {version(1): refused()}
    with pytest.raises(StoreUnavailable):
        await parts.router.resolve(ADAPTER)


async def test_the_kept_route_answers_while_a_newer_version_cannot_be_fetched(
    parts: Parts,
) -> None:
    await parts.route(1)
    await parts.generation()
    await parts.restart()
    await parts.route(2)
    parts.gate.errors = {version(2): StoreUnavailable("down")}
    assert await parts.generation() == 1
    parts.gate.errors.clear()
    await parts.generation()
    await parts.settled()
    assert await parts.generation() == 2


async def test_a_deleted_version_that_was_kept_is_walked_back_from_once_the_store_answers(
    parts: Parts,
) -> None:
    await parts.route(1, 2)
    await parts.generation()
    await parts.restart()
    await parts.registry.bury(version(2), "somebody")
    parts.store.fail()
    assert await parts.generation() == 2
    parts.store.heal()
    await parts.generation()
    await parts.settled()
    assert await parts.generation() == 1


@pytest.mark.parametrize("cause", ["forgotten", "refused"])
async def test_a_route_that_may_not_be_served_is_kept_no_more(parts: Parts, cause: str) -> None:
    await parts.route(1)
    await parts.generation()
    if cause == "forgotten":
        parts.router.forget(ADAPTER)
    else:
        await parts.registry.bury(version(1), "somebody")
        parts.router.deleted(version(1))
        await parts.settled()
    await parts.restart()
    parts.store.fail()
    with pytest.raises(StoreUnavailable):
        await parts.router.resolve(ADAPTER)


async def test_a_store_that_fails_after_the_route_was_read_changes_nothing(parts: Parts) -> None:
    await parts.route(1)
    await parts.generation()
    await parts.route(2)
    parts.store.fail(r"routes/0+2", after=True)
    await parts.look()
    assert await parts.generation() == 1
    parts.store.heal()
    await parts.look()
    assert await parts.generation() == 2
