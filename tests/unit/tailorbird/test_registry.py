"""Versions exist by their manifest; routes are appended and never overwritten."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tailorbird.errors import Conflict, DataCorrupt, NotFound
from tailorbird.names import AdapterName, TenantName
from tailorbird.object_store import ObstoreStore, open_store
from tailorbird.registry import AdapterRegistry, Route, RouteConflict, RoutedVersion
from tests.unit.trainer_svc.values import make_manifest

ADAPTER = AdapterName("acme", "voice")


@pytest.fixture
def store(tmp_path: Path) -> ObstoreStore:
    return open_store(tmp_path.as_uri())


@pytest.fixture
def registry(store: ObstoreStore) -> AdapterRegistry:
    return AdapterRegistry(store)


def route(generation: int, nonce: str = "n") -> Route:
    return Route(
        generation=generation,
        versions=(RoutedVersion(version=f"2026010{generation}T000000-j-1"),),
        reason="promote",
        actor="me",
        create_time=datetime(2026, 1, 1, tzinfo=UTC),
        nonce=nonce,
    )


async def test_a_version_exists_once_its_manifest_does(
    registry: AdapterRegistry, store: ObstoreStore
) -> None:
    old, new = (ADAPTER.version(f"2026010{day}T000000-j-1") for day in (1, 2))
    await store.create(f"{new}/adapter_config.json", b"{}")
    await registry.publish(old, make_manifest(str(old)))
    assert await registry.versions(ADAPTER) == [old]
    with pytest.raises(NotFound):
        await registry.manifest(new)
    await registry.publish(new, make_manifest(str(new)))
    assert await registry.versions(ADAPTER) == [new, old]
    assert await registry.adapters(TenantName("acme")) == [ADAPTER]
    assert await registry.adapters(TenantName("other")) == []


async def test_publishing_again_changes_nothing(registry: AdapterRegistry) -> None:
    version = ADAPTER.version("20260101T000000-j-1")
    manifest = make_manifest(str(version))
    await registry.publish(version, manifest)
    await registry.publish(version, manifest)
    with pytest.raises(Conflict):
        await registry.publish(version, make_manifest(str(version)))
    assert await registry.manifest(version) == manifest


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"\xff", b'{"schema_version": 2}'])
async def test_a_broken_manifest_is_corrupt(
    registry: AdapterRegistry, store: ObstoreStore, data: bytes
) -> None:
    version = ADAPTER.version("20260101T000000-j-1")
    await store.create(f"{version}/manifest.json", data)
    with pytest.raises(DataCorrupt):
        await registry.manifest(version)


async def test_a_manifest_of_another_version_is_corrupt(
    registry: AdapterRegistry, store: ObstoreStore
) -> None:
    version = ADAPTER.version("20260101T000000-j-1")
    other = make_manifest(str(ADAPTER.version("20260102T000000-j-1")))
    await store.create(f"{version}/manifest.json", other.to_json())
    with pytest.raises(DataCorrupt):
        await registry.manifest(version)


async def test_the_newest_route_is_the_head(registry: AdapterRegistry) -> None:
    assert await registry.head(ADAPTER) is None
    for generation in (1, 2, 3):
        await registry.append_route(ADAPTER, route(generation))
    assert await registry.head(ADAPTER) == route(3)
    assert await registry.head(ADAPTER, after=route(1)) == route(3)
    assert await registry.route(ADAPTER, 2) == route(2)
    assert await registry.route(ADAPTER, 4) is None


async def test_a_route_that_cannot_be_read_is_passed_over(
    registry: AdapterRegistry, store: ObstoreStore
) -> None:
    for generation in (1, 3):
        await registry.append_route(ADAPTER, route(generation))
    foreign = route(2).model_dump_json().encode()
    for generation, data in ((2, b"garbage"), (4, b""), (5, foreign), (999999999999, b"{}")):
        await store.create(f"{ADAPTER}/routes/{generation:012d}.json", data)
    for found in (await registry.head(ADAPTER), await registry.head(ADAPTER, after=route(1))):
        assert found == route(3)
    assert await registry.before(ADAPTER, 3) == route(1)
    assert await registry.before(ADAPTER, 1) is None
    assert await registry.next_generation(ADAPTER, route(3)) == 6
    assert await registry.next_generation(ADAPTER, route(1)) == 3
    assert await registry.next_generation(AdapterName("acme", "new"), None) == 1
    with pytest.raises(DataCorrupt):
        await registry.route(ADAPTER, 5)


async def test_one_of_many_writers_gets_a_generation(registry: AdapterRegistry) -> None:
    results = await asyncio.gather(
        *(registry.append_route(ADAPTER, route(1, nonce=f"n{i}")) for i in range(6)),
        return_exceptions=True,
    )
    assert sum(result is None for result in results) == 1
    assert sum(isinstance(result, RouteConflict) for result in results) == 5


async def test_a_writer_whose_reply_was_lost_has_won(registry: AdapterRegistry) -> None:
    await registry.append_route(ADAPTER, route(1, nonce="mine"))
    await registry.append_route(ADAPTER, route(1, nonce="mine"))
    assert await registry.head(ADAPTER) == route(1, nonce="mine")


async def test_folders_that_are_no_adapters_are_passed_over(
    registry: AdapterRegistry, store: ObstoreStore
) -> None:
    await store.create("tenants/acme/adapters/Not An Adapter/versions/x/manifest.json", b"{}")
    assert await registry.adapters(TenantName("acme")) == []
    await store.create(f"{ADAPTER}/versions/not-a-version/manifest.json", b"{}")
    assert await registry.versions(ADAPTER) == []
