"""A tenant is erased by the trainer's command; serving, which sees the store alone, obeys."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from tailorbird.errors import AdapterRefused, NotFound
from tailorbird.names import TenantName
from tailorbird.registry import AdapterRegistry
from tests.unit.serving_svc.adapters.routed import ADAPTER, Parts, route, version
from trainer_svc.housekeeping.collector import Stores
from trainer_svc.housekeeping.erasure import Asked, erase
from trainer_svc.jobs.database import Database

ASKED = Asked(TenantName("acme"), cancel_jobs=False, patience=0.0)


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    parts = Parts(tmp_path)
    yield parts
    await parts.close()


@pytest.fixture
async def stores(parts: Parts, tmp_path: Path) -> AsyncIterator[Stores]:
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/jobs.db")
    await database.migrate()
    yield Stores(database, parts.store.real, lambda _: nullcontext(), tmp_path / "caches")
    await database.close()


async def nothing_is_served(parts: Parts) -> None:
    for number in (1, 2):
        with pytest.raises(NotFound):
            parts.router.named(version(number))
    with pytest.raises(AdapterRefused) as raised:
        await parts.router.resolve(ADAPTER)
    assert raised.value.reason == "VERSION_DELETED"


async def test_a_replica_stops_within_two_polls(parts: Parts, stores: Stores) -> None:
    await parts.route(1, 2)
    assert await parts.generation() == 2
    for number in (1, 2):
        parts.router.named(version(number))
    await parts.settled()
    await erase(stores, ASKED)
    # One finds the newest route, which leads nowhere; the next, that the one before does so too.
    await parts.look()
    await parts.look()
    await nothing_is_served(parts)
    assert {*parts.gate.dropped} == {version(1), version(2)}


async def test_a_replica_that_was_away_serves_nothing_when_it_is_back(
    parts: Parts, stores: Stores
) -> None:
    """Its disk has the route; the store's first answer takes it away."""
    await parts.route(1, 2)
    assert await parts.generation() == 2
    await parts.restart()
    await erase(stores, ASKED)
    with pytest.raises(AdapterRefused):
        await parts.router.resolve(ADAPTER)


async def test_a_tenant_that_comes_back_is_served_again(parts: Parts, stores: Stores) -> None:
    await parts.route(1, 2)
    await parts.generation()
    await erase(stores, ASKED)
    await parts.look()
    await parts.look()
    with pytest.raises(AdapterRefused):
        await parts.router.resolve(ADAPTER)
    await parts.publish(5)
    registry = AdapterRegistry(parts.store.real)
    head = await registry.head(ADAPTER)
    assert head is not None
    await registry.append_route(ADAPTER, route(head.generation + 1, 5))
    await parts.look()
    assert await parts.generation() == head.generation + 1
