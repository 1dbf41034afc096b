from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from serving_svc.adapters import hot as module
from serving_svc.adapters.disk import AdapterDisk
from serving_svc.adapters.hot import HotList
from tailorbird.errors import AdapterRefused, InvalidArgument, StoreUnavailable
from tailorbird.names import VersionName
from tests.unit.serving_svc.adapters.published import World, version

MINE = "replicas/default/pod-1/hot.json"


class Loaded(list[VersionName]):
    def __call__(self) -> list[VersionName]:
        return self


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
async def disk(world: World) -> AsyncIterator[AdapterDisk]:
    opened = await world.open_disk()
    yield opened
    await opened.close()


@pytest.fixture
def loaded() -> Loaded:
    return Loaded([version(2), version(1)])


def hot_list(
    world: World, loaded: Loaded, replica: str = "pod-1", later: timedelta = timedelta()
) -> HotList:
    return HotList(
        world.store,
        "default",
        replica,
        loaded,
        interval=0.001,
        clock=lambda: datetime.now(UTC) + later,
    )


async def test_a_replica_finds_its_own_list_again(
    world: World, disk: AdapterDisk, loaded: Loaded
) -> None:
    await hot_list(world, loaded).write()
    await hot_list(world, Loaded([version(3)]), "pod-2").write()
    later = hot_list(world, loaded, later=timedelta(days=9))
    assert await later.to_warm(disk, world.refusals, 8) == [version(2), version(1)]
    assert await later.to_warm(disk, world.refusals, 1) == [version(2)]


async def test_a_fresh_replica_takes_the_newest_of_its_profile(
    world: World, disk: AdapterDisk, loaded: Loaded
) -> None:
    fresh = hot_list(world, loaded, "pod-9")
    assert await fresh.to_warm(disk, world.refusals, 8) == []
    await hot_list(world, loaded, "pod-2").write()
    await hot_list(world, Loaded([version(3)]), "pod-1").write()
    await world.store.put("replicas/other/pod-3/hot.json", b"{}")
    for key in ("pod-3/else.json", "pod-3/in/hot.json", "hot.json"):
        data = {"write_time": "2026-01-01T00:00:00Z", "versions": [str(version(4))]}
        await world.store.put(f"replicas/default/{key}", json.dumps(data).encode())
    assert await fresh.to_warm(disk, world.refusals, 8) == [version(3)]
    # What is broken is passed over.
    await world.store.put("replicas/default/pod-1/hot.json", b"{")
    assert await fresh.to_warm(disk, world.refusals, 8) == [version(2), version(1)]
    await world.store.put("replicas/default/pod-1/hot.json", b" " * 2**19)
    assert await fresh.to_warm(disk, world.refusals, 8) == [version(2), version(1)]
    tomorrow = hot_list(world, loaded, "pod-9", timedelta(days=1, seconds=1))
    assert await tomorrow.to_warm(disk, world.refusals, 8) == []


async def test_the_files_read_are_bounded(world: World, disk: AdapterDisk, loaded: Loaded) -> None:
    for number in range(20):
        await world.store.put(f"replicas/default/pod-{number}/hot.json", b"{")
    assert await hot_list(world, loaded).to_warm(disk, world.refusals, 8) == []
    assert world.store.calls["get"] == 8


async def test_what_is_refused_or_no_version_is_not_warmed(
    world: World, disk: AdapterDisk, loaded: Loaded
) -> None:
    world.refusals.record(version(2), AdapterRefused("no", reason="NOT_FINITE"))
    names = ["../x", str(version(2)), str(version(1)), str(version(1)), "tenants/a"]
    data = {"write_time": "2026-01-01T00:00:00Z", "versions": names}
    await world.store.put(MINE, json.dumps(data).encode())
    assert await hot_list(world, loaded).to_warm(disk, world.refusals, 8) == [version(1)]


@pytest.mark.parametrize("how", ["errors", "hangs"])
async def test_without_the_store_what_is_on_disk_is_warmed(
    world: World,
    disk: AdapterDisk,
    loaded: Loaded,
    how: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_STORE_SECONDS", 0.05)
    await world.publish(version(4), version(5))
    for number in (4, 5):
        async with disk.hold(version(number)):
            pass
    for operation in ("objects", "put"):
        if how == "errors":
            world.store.errors[operation] = StoreUnavailable("down")
        else:
            world.store.hangs.add(operation)
    hot = hot_list(world, loaded)
    assert await hot.to_warm(disk, world.refusals, 8) == [version(5), version(4)]
    # Nor does writing fail; it is tried again.
    await hot.write()
    world.store.errors.clear()
    world.store.hangs.clear()
    await hot.write()
    assert json.loads(await world.store.get(MINE))["versions"] == [str(version(2)), str(version(1))]


async def test_writes_only_what_changed_and_keeps_what_it_does_not_know(
    world: World, disk: AdapterDisk, loaded: Loaded
) -> None:
    data = {"write_time": "2026-01-01T00:00:00Z", "versions": [], "newer": {"x": 1}}
    await world.store.put(MINE, json.dumps(data).encode())
    hot = hot_list(world, loaded)
    await hot.to_warm(disk, world.refusals, 8)
    before = world.store.calls["put"]
    await hot.write()
    await hot.write()
    assert world.store.calls["put"] == before + 1
    assert json.loads(await world.store.get(MINE))["newer"] == {"x": 1}
    loaded.reverse()
    await hot.write()
    assert json.loads(await world.store.get(MINE))["versions"] == [str(version(1)), str(version(2))]
    loaded.clear()
    await hot.write()
    assert world.store.calls["put"] == before + 2
    loaded.extend(version(number % 60) for number in range(1000))
    await hot.write()
    assert len(json.loads(await world.store.get(MINE))["versions"]) == 256


async def test_runs_through_failures(world: World, loaded: Loaded) -> None:
    world.store.errors["put"] = StoreUnavailable("down")
    running = asyncio.create_task(hot_list(world, loaded).run())
    while world.store.calls["put"] < 3:
        await world.store.called.wait()
        world.store.called.clear()
    assert not running.done()
    running.cancel()


@pytest.mark.parametrize("name", ["", "..", "a/b", "a..b", ".a", "ä", "a" * 300])
def test_names_that_are_no_part_of_a_key_are_refused(world: World, name: str) -> None:
    for profile, replica in ((name, "pod"), ("default", name)):
        with pytest.raises(InvalidArgument):
            HotList(world.store, profile, replica, list, interval=1)
