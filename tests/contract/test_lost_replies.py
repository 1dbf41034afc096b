"""A create whose reply was lost is tried again, and finds its own object: who wrote it knows it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tailorbird.errors import Conflict
from tailorbird.feedback import FeedbackStore
from tailorbird.manifest import FileEntry
from tailorbird.names import AdapterName, DatasetName
from tailorbird.object_store import ObstoreStore, open_store
from tailorbird.registry import AdapterRegistry
from tailorbird.routes import Route, RouteConflict, RoutedVersion
from tests.fault_proxy import FaultProxy, lost
from tests.unit.tailorbird.feedback_values import a_record
from tests.unit.trainer_svc.values import make_manifest
from trainer_svc.datasets.store import DatasetStore
from trainer_svc.engine.result.package import FILES, Package, upload

ADAPTER = AdapterName("acme", "voice")
VERSION = ADAPTER.version("20260101T000000-one-1")
RECORD = b'{"prompt": "a", "completion": "b"}\n'


@pytest.fixture
def store(proxy: FaultProxy, s3_url: str) -> ObstoreStore:
    return open_store(s3_url, retry_seconds=60)


@pytest.fixture
def registry(store: ObstoreStore) -> AdapterRegistry:
    return AdapterRegistry(store)


def a_route(nonce: str) -> Route:
    return Route(
        generation=1,
        versions=(RoutedVersion(version=VERSION.version),),
        reason="promote",
        actor="me",
        create_time=datetime(2026, 1, 1, tzinfo=UTC),
        nonce=nonce,
    )


def tries(proxy: FaultProxy, name: str) -> int:
    return sum(seen.startswith("PUT") and name in seen for seen in proxy.seen)


async def test_a_manifest_is_known_again(registry: AdapterRegistry, proxy: FaultProxy) -> None:
    manifest = make_manifest(str(VERSION))
    proxy.plan(lost, method="PUT")
    await registry.publish(VERSION, manifest)
    assert tries(proxy, "manifest.json") == 2
    assert await registry.manifest(VERSION) == manifest
    await registry.publish(VERSION, manifest.model_copy(update={"rank": 16}))
    other = {"adapter_config.json": FileEntry(size=2, sha256="1" * 64)}
    with pytest.raises(Conflict, match="another manifest"):
        await registry.publish(VERSION, manifest.model_copy(update={"files": other}))


async def test_a_route_is_known_again_by_its_nonce(
    registry: AdapterRegistry, proxy: FaultProxy
) -> None:
    proxy.plan(lost, method="PUT")
    await registry.append_route(ADAPTER, a_route("mine"))
    assert tries(proxy, "routes") == 2
    assert await registry.head(ADAPTER) == a_route("mine")
    proxy.plan(lost, method="PUT")
    with pytest.raises(RouteConflict):
        await registry.append_route(ADAPTER, a_route("other"))


async def test_a_tombstone_is_known_again(registry: AdapterRegistry, proxy: FaultProxy) -> None:
    proxy.plan(lost, method="PUT")
    buried = await registry.bury(VERSION, "me")
    assert tries(proxy, "tombstone.json") == 2
    assert await registry.tombstone(VERSION) == buried


async def test_a_versions_files_are_known_again(
    store: ObstoreStore, proxy: FaultProxy, tmp_path: Path
) -> None:
    for name in FILES:
        (tmp_path / name).write_text(f"of {name}")
        proxy.plan(lost, method="PUT", target=name)
    package = Package(
        folder=tmp_path,
        target_modules=("q_proj",),
        tensors={},
        evaluation=make_manifest(str(VERSION)).evaluation,
        lineage=make_manifest(str(VERSION)).lineage,
    )
    await upload(store, package, VERSION)
    assert [tries(proxy, name) for name in FILES] == [2] * len(FILES)
    for name in FILES:
        assert await store.get(f"{VERSION}/{name}") == f"of {name}".encode()


async def test_a_feedback_record_is_known_again(store: ObstoreStore, proxy: FaultProxy) -> None:
    proxy.plan(lost, method="PUT")
    assert await FeedbackStore(store).create(a_record(7)) == a_record(7)
    assert tries(proxy, "feedback") == 2


async def test_a_dataset_is_known_again(
    store: ObstoreStore, proxy: FaultProxy, tmp_path: Path
) -> None:
    datasets = DatasetStore(store, tmp_path / "spool", 2**20, 4096)
    name = DatasetName("acme", "chats")

    async def chunks() -> AsyncIterator[bytes]:
        yield RECORD

    proxy.plan(lost, method="PUT", target="meta.json")
    dataset = await datasets.upload(name, None, chunks())
    assert tries(proxy, "meta.json") == 2
    assert await datasets.get(name) == dataset
    assert await store.get(dataset.data_key) == RECORD
