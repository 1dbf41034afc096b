"""Versions exist by their manifest; routes are appended and never overwritten."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from tailorbird.errors import Conflict, DataCorrupt, NotFound
from tailorbird.manifest import REPORT, AdapterManifest, FileEntry
from tailorbird.names import AdapterName, TenantName, VersionName
from tailorbird.object_store import ObstoreStore, open_store
from tailorbird.registry import AdapterRegistry
from tailorbird.routes import Route, RouteConflict, RoutedVersion
from tests.unit.trainer_svc.values import make_manifest

ADAPTER = AdapterName("acme", "voice")


@pytest.fixture
def store(tmp_path: Path) -> ObstoreStore:
    return open_store(tmp_path.as_uri())


@pytest.fixture
def registry(store: ObstoreStore) -> AdapterRegistry:
    return AdapterRegistry(store)


def route(generation: int, nonce: str = "n", versions: tuple[RoutedVersion, ...] = ()) -> Route:
    alone = RoutedVersion(version=f"2026010{generation % 10}T000000-j-1")
    return Route(
        generation=generation,
        versions=versions or (alone,),
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
    assert not await registry.has_version(ADAPTER)
    await registry.publish(old, make_manifest(str(old)))
    assert await registry.has_version(ADAPTER)
    with pytest.raises(NotFound):
        await registry.manifest(new)
    with pytest.raises(NotFound):
        await registry.check_present(new)
    await registry.check_present(old)
    await registry.publish(new, make_manifest(str(new)))
    assert await registry.version_names(ADAPTER) == [new, old]
    assert await registry.adapter_names(TenantName("acme")) == [ADAPTER]
    assert await registry.adapter_names(TenantName("other")) == []


async def test_publishing_again_changes_nothing(registry: AdapterRegistry) -> None:
    version = ADAPTER.version("20260101T000000-j-1")
    manifest = make_manifest(str(version))
    await registry.publish(version, manifest)
    await registry.publish(version, manifest)
    # As another release may write it.
    await registry.publish(version, make_manifest(str(version)))
    others = {"adapter_config.json": FileEntry(size=2, sha256="1" * 64)}
    with pytest.raises(Conflict):
        await registry.publish(version, manifest.model_copy(update={"files": others}))
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
    assert [found async for found in registry.earlier(ADAPTER, 4)] == [route(3), route(1)]
    assert [found async for found in registry.earlier(ADAPTER, 1)] == []
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


async def test_a_generation_that_nobody_here_can_read_is_taken_as_well(
    registry: AdapterRegistry,
) -> None:
    await registry.store.create(f"{ADAPTER}/routes/000000000001.json", b'{"of": "a later release"}')
    with pytest.raises(RouteConflict):
        await registry.append_route(ADAPTER, route(1))


async def test_a_writer_whose_reply_was_lost_has_won(registry: AdapterRegistry) -> None:
    await registry.append_route(ADAPTER, route(1, nonce="mine"))
    await registry.append_route(ADAPTER, route(1, nonce="mine"))
    assert await registry.head(ADAPTER) == route(1, nonce="mine")


async def test_folders_that_are_no_adapters_are_passed_over(
    registry: AdapterRegistry, store: ObstoreStore
) -> None:
    await store.create("tenants/acme/adapters/Not An Adapter/versions/x/manifest.json", b"{}")
    assert await registry.adapter_names(TenantName("acme")) == []
    await store.create(f"{ADAPTER}/versions/not-a-version/manifest.json", b"{}")
    assert await registry.version_names(ADAPTER) == []


class CountingStore(ObstoreStore):
    """Counts its reads."""

    reads = 0

    async def get(self, key: str, max_bytes: int | None = None) -> bytes:
        self.reads += 1
        return await super().get(key, max_bytes)


@pytest.mark.parametrize("newest", [1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 63, 64, 65, 200])
async def test_a_reader_far_behind_catches_up_in_few_reads(
    registry: AdapterRegistry, store: ObstoreStore, newest: int
) -> None:
    for generation in range(1, newest + 1):
        await registry.append_route(ADAPTER, route(generation))
    counting = CountingStore(store._backend)
    assert await AdapterRegistry(counting).head(ADAPTER, after=route(1)) == route(newest)
    assert counting.reads <= 2 * newest.bit_length() + 1
    if newest == 1:
        assert counting.reads == 1


@pytest.mark.parametrize("holes", [{40}, {39, 40}, {33, 36, 38, 39, 40}, set(range(2, 41))])
async def test_a_reader_far_behind_passes_over_what_cannot_be_read(
    registry: AdapterRegistry, store: ObstoreStore, holes: set[int]
) -> None:
    for generation in range(1, 41):
        if generation in holes:
            await store.create(f"{ADAPTER}/routes/{generation:012d}.json", b"garbage")
        else:
            await registry.append_route(ADAPTER, route(generation))
    expected = max(set(range(1, 41)) - holes)
    assert await registry.head(ADAPTER, after=route(1)) == route(expected)
    assert await registry.head(ADAPTER) == route(expected)


def routed(**weights: int) -> tuple[RoutedVersion, ...]:
    return tuple(
        RoutedVersion(version=f"202601{int(name[1:]):02d}T000000-j-1", weight=weight)
        for name, weight in weights.items()
    )


def test_the_version_of_a_split_route_is_its_heaviest() -> None:
    assert route(1, versions=routed(v1=1, v2=1000, v3=1000)).version == routed(v2=1)[0].version
    assert route(1, versions=routed(v3=1)).leads_to(routed(v3=1)[0].version)
    assert not route(1, versions=routed(v3=1)).leads_to(routed(v1=1)[0].version)


@pytest.mark.parametrize(
    "versions",
    [routed(v1=1) * 2, routed(**{f"v{n}": 1 for n in range(17)})],
    ids=["twice", "too many"],
)
def test_a_route_with_wrong_versions_is_none(versions: tuple[RoutedVersion, ...]) -> None:
    with pytest.raises(ValidationError):
        route(1, versions=versions)


@pytest.mark.parametrize("weight", [0, 1001, -1])
def test_a_weight_has_limits(weight: int) -> None:
    with pytest.raises(ValidationError):
        RoutedVersion(version="20260101T000000-j-1", weight=weight)


def test_a_route_of_before_weights_is_still_read() -> None:
    old = b"""{"generation":7,"versions":[{"version":"20260101T000000-j-1","weight":100}],
        "reason":"publish","actor":"a","create_time":"2026-01-01T00:00:00Z","nonce":"n"}"""
    assert Route.model_validate_json(old).version == "20260101T000000-j-1"


@pytest.mark.parametrize(
    ("mine", "theirs", "same"),
    [
        (routed(v1=1), routed(v1=100), True),
        (routed(v1=1, v2=2), routed(v2=2, v1=1), True),
        (routed(v1=1, v2=2), routed(v1=2, v2=1), False),
        (routed(v1=1), routed(v2=1), False),
        (routed(v1=1), routed(v1=1, v2=1), False),
    ],
)
def test_two_routes_split_alike(
    mine: tuple[RoutedVersion, ...], theirs: tuple[RoutedVersion, ...], same: bool
) -> None:
    assert route(1, versions=mine).splits_like(theirs) is same


async def test_a_deleted_version_is_there_only_to_be_described(
    registry: AdapterRegistry, store: ObstoreStore
) -> None:
    version = ADAPTER.version("20260101T000000-j-1")
    manifest = make_manifest(str(version))
    await registry.publish(version, manifest)
    assert await registry.tombstone(version) is None
    first = await registry.bury(version, "me")
    assert await registry.bury(version, "somebody else") == first
    assert (first.actor, first.version) == ("me", str(version))
    assert await registry.tombstone(version) == first
    for look in (registry.manifest, registry.check_present, registry.check_not_deleted):
        with pytest.raises(NotFound) as caught:
            await look(version)
        assert caught.value.reason == "VERSION_DELETED"
    assert await registry.stored_manifest(version) == manifest
    assert not await registry.has_version(ADAPTER)
    younger = ADAPTER.version("20260102T000000-j-1")
    await registry.publish(younger, make_manifest(str(younger)))
    assert await registry.has_version(ADAPTER)


@pytest.mark.parametrize("data", [b"", b"garbage", b"{}"])
async def test_a_tombstone_that_cannot_be_read_is_a_tombstone(
    registry: AdapterRegistry, store: ObstoreStore, data: bytes
) -> None:
    version = ADAPTER.version("20260101T000000-j-1")
    await store.create(f"{version}/tombstone.json", data)
    found = await registry.tombstone(version)
    assert found is not None
    assert found.delete_time == datetime(1970, 1, 1, tzinfo=UTC)


async def test_a_newer_tombstones_fields_are_kept(
    registry: AdapterRegistry, store: ObstoreStore
) -> None:
    version = ADAPTER.version("20260101T000000-j-1")
    data = b'{"version":"v","delete_time":"2026-01-01T00:00:00Z","actor":"a","grace":7}'
    await store.create(f"{version}/tombstone.json", data)
    found = await registry.tombstone(version)
    assert found is not None
    assert found.model_dump()["grace"] == 7


async def reported(registry: AdapterRegistry, data: bytes) -> tuple[VersionName, AdapterManifest]:
    """Publish a version with this report."""
    version = ADAPTER.version("20260101T000000-j-1")
    entry = FileEntry(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    manifest = make_manifest(str(version)).model_copy(update={"files": {REPORT: entry}})
    await registry.store.create(f"{version}/{REPORT}", data)
    return version, manifest


async def test_a_report_is_read_as_it_was_published(registry: AdapterRegistry) -> None:
    version, manifest = await reported(registry, b'{"judgement": {"records": 3}}')
    assert await registry.report(version, manifest) == {"judgement": {"records": 3}}


async def test_a_version_may_have_no_report(registry: AdapterRegistry) -> None:
    version = ADAPTER.version("20260101T000000-j-1")
    assert await registry.report(version, make_manifest(str(version))) is None


@pytest.mark.parametrize("there", [b"{}", b"[1]", b"{", b"[" * 100_000, None, b" " * 2**20 + b"{}"])
async def test_a_report_that_is_none_is_corrupt(
    registry: AdapterRegistry, store: ObstoreStore, there: bytes | None
) -> None:
    version, manifest = await reported(registry, there or b"{ }")
    if there == b"{}":
        # It is another than was published.
        await store.put(f"{version}/{REPORT}", b"{} ")
    if there is None:
        await store.delete(f"{version}/{REPORT}")
    with pytest.raises(DataCorrupt) as caught:
        await registry.report(version, manifest)
    assert caught.value.reason == "REPORT_INVALID"
