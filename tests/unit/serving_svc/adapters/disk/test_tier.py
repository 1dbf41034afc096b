from __future__ import annotations

import asyncio
import errno
import itertools
import os
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from safetensors.numpy import save

from serving_svc.adapters.disk import AdapterDisk, download
from serving_svc.adapters.disk.index import RECORD, folder_name
from serving_svc.adapters.gate import check, weights
from tailorbird.errors import (
    AdapterRefused,
    NotFound,
    ResourceExhausted,
    StoreUnavailable,
    Unavailable,
)
from tailorbird.manifest import ADAPTER_WEIGHTS, Probes
from tailorbird.names import VersionName
from tailorbird.object_store import delete_folder
from tests.unit.serving_svc.adapters.cancelling import CancelledAt
from tests.unit.serving_svc.adapters.published import (
    FILES,
    NEEDED_BYTES,
    OTHER,
    SEQUENCES,
    SHAPES,
    A,
    B,
    World,
    served_base,
    version,
)


@pytest.fixture
async def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    await made.publish(*(version(number) for number in range(1, 6)))
    return made


@pytest.fixture
async def disk(world: World) -> AsyncIterator[AdapterDisk]:
    opened = await world.open_disk()
    yield opened
    await opened.close()


async def stage(disk: AdapterDisk, *versions: VersionName) -> None:
    for of in versions:
        async with disk.hold(of):
            pass


async def looked(disk: AdapterDisk) -> None:
    """Wait for the looks for deletions that are under way."""
    while tasks := [*disk._looks._tasks.values()]:
        await asyncio.wait(tasks)


async def size_of_one(world: World) -> int:
    disk = await world.open_disk()
    await stage(disk, version(1))
    size = disk.versions()[0].size
    disk.forget(version(1))
    await disk.close()
    return size


async def test_a_version_is_fetched_once_for_all_who_ask(world: World, disk: AdapterDisk) -> None:
    await asyncio.gather(*(stage(disk, version(1)) for _ in range(5)))
    async with disk.hold(version(1)) as staged:
        assert staged.probes == Probes(sequences=SEQUENCES)
        assert {file.name for file in staged.path.iterdir()} == {*FILES, RECORD}
        assert staged.path.is_absolute()
        assert staged.size == sum(file.stat().st_size for file in staged.path.iterdir())
    assert world.store.calls["read"] == len(FILES)


async def test_a_waiter_that_is_cancelled_ends_only_its_own_wait(
    world: World, disk: AdapterDisk
) -> None:
    world.store.hangs.add("read")
    waiting = [asyncio.create_task(stage(disk, version(1))) for _ in range(2)]
    await world.store.hanging.wait()
    world.store.hangs.clear()
    waiting[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    assert not waiting[1].done()
    assert disk._entries[version(1)].holds == 2
    await disk._stagings.close()
    with pytest.raises(Unavailable) as caught:
        await waiting[1]
    assert caught.value.reason == "SHUTTING_DOWN"
    assert not disk._entries
    assert disk._used_bytes == 0
    assert world.folders() == []


async def test_an_error_goes_to_all_waiters_and_the_next_call_tries_again(
    world: World, disk: AdapterDisk
) -> None:
    world.store.errors["read"] = StoreUnavailable("down")
    results = await asyncio.gather(
        *(stage(disk, version(1)) for _ in range(3)), return_exceptions=True
    )
    assert all(isinstance(result, StoreUnavailable) for result in results)
    assert world.store.calls["read"] == 1
    assert (world.folders(), disk._used_bytes, len(disk._entries)) == ([], 0, 0)
    world.store.errors.clear()
    await stage(disk, version(1))


@pytest.mark.parametrize("operation", ["objects", "get", "read"])
async def test_a_store_that_hangs_is_given_up_and_blocks_nothing_on_disk(
    world: World, operation: str
) -> None:
    disk = await world.open_disk(concurrent=1, stall_seconds=0.2)
    await stage(disk, version(1))
    await disk.close()
    disk = await world.open_disk(concurrent=1, stall_seconds=0.2)
    world.store.hangs.add(operation)
    hanging = [asyncio.create_task(stage(disk, version(number))) for number in (2, 3)]
    await world.store.hanging.wait()
    # Kept from before: checked again and served, with the only fetch hanging.
    await stage(disk, version(1))
    for task in hanging:
        with pytest.raises(StoreUnavailable, match="gave no byte"):
            await task
    assert len(world.folders()) == 1
    await disk.close()


async def test_fetches_are_bounded_in_number_and_leave_room_for_other_tenants(
    world: World,
) -> None:
    await world.publish(version(1, OTHER))
    disk = await world.open_disk(concurrent=3)
    world.store.hangs.add("read")
    waiting = [asyncio.create_task(stage(disk, version(number))) for number in range(1, 6)]
    await world.store.readers(2)
    waiting.append(asyncio.create_task(stage(disk, version(1, OTHER))))
    await world.store.readers(3)
    assert str(version(1, OTHER)) in world.store.keys[-1]
    await disk.close()
    assert world.store.most_reading == 3
    for task in waiting:
        with pytest.raises(Unavailable):
            await task


async def test_what_is_not_published_is_not_found(world: World, disk: AdapterDisk) -> None:
    with pytest.raises(NotFound):
        await stage(disk, version(9))
    assert not disk._entries


async def test_a_deleted_version_is_not_fetched(world: World, disk: AdapterDisk) -> None:
    await world.store.put(f"{version(1)}/tombstone.json", b"{}")
    with pytest.raises(NotFound) as caught:
        await stage(disk, version(1))
    assert caught.value.reason == "VERSION_DELETED"
    assert not world.refusals.of(version(1).adapter_name)


async def test_a_huge_manifest_is_refused(world: World, disk: AdapterDisk) -> None:
    await world.store.put(f"{version(1)}/manifest.json", b" " * (2**20 + 1))
    with pytest.raises(AdapterRefused) as caught:
        await stage(disk, version(1))
    assert caught.value.reason == "MANIFEST_INVALID"


async def test_a_refusal_is_kept_and_its_folder_is_not(world: World, disk: AdapterDisk) -> None:
    nan = save({A: np.full(SHAPES[A], np.nan, np.float32), B: np.ones(SHAPES[B], np.float32)})
    await world.publish(version(1), files=FILES | {ADAPTER_WEIGHTS: nan})
    for _ in range(2):
        with pytest.raises(AdapterRefused, match=str(version(1))) as caught:
            await stage(disk, version(1))
        assert caught.value.reason == "NOT_FINITE"
    assert world.store.calls["read"] == len(FILES)
    refusal = world.refusals.get(version(1))
    assert refusal is not None
    assert refusal.reason == "NOT_FINITE"
    assert (world.folders(), disk._used_bytes, len(disk._entries)) == ([], 0, 0)


async def test_bytes_that_changed_on_the_way_are_fetched_once_more(
    world: World, disk: AdapterDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_append, flips = download.append, iter([True])

    def append(path: Path, piece: bytes | memoryview) -> None:
        flip = path.name == ADAPTER_WEIGHTS and len(piece) and next(flips, False)
        true_append(path, bytes(piece[:-1]) + bytes([piece[-1] ^ 1]) if flip else piece)

    monkeypatch.setattr(download, "append", append)
    async with disk.hold(version(1)) as staged:
        assert (staged.path / ADAPTER_WEIGHTS).read_bytes() == FILES[ADAPTER_WEIGHTS]
        assert world.folders() == [staged.path.name]
        assert disk._used_bytes == staged.size
    assert world.refusals.get(version(1)) is None
    assert world.store.calls["read"] == 2 * len(FILES)


async def test_a_manifest_that_changed_on_the_way_is_read_once_more(
    world: World, disk: AdapterDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_get, broken = world.store.get, iter([b"{"])

    async def get(key: str, max_bytes: int | None = None) -> bytes:
        data = await true_get(key, max_bytes)
        return next(broken, data) if key.endswith("manifest.json") else data

    monkeypatch.setattr(world.store, "get", get)
    await stage(disk, version(1))
    assert world.refusals.get(version(1)) is None


async def test_bytes_that_are_wrong_in_the_store_are_refused_for_good(
    world: World, disk: AdapterDisk
) -> None:
    data = bytearray(FILES[ADAPTER_WEIGHTS])
    data[-1] ^= 1
    await world.store.put(f"{version(1)}/{ADAPTER_WEIGHTS}", bytes(data))
    for _ in range(2):
        with pytest.raises(AdapterRefused) as caught:
            await stage(disk, version(1))
        assert (caught.value.reason, caught.value.retryable) == ("DIGEST_MISMATCH", False)
    assert world.store.calls["read"] == 2 * len(FILES)
    assert (world.folders(), disk._used_bytes, len(disk._entries)) == ([], 0, 0)


async def test_a_version_refused_elsewhere_is_not_held(world: World, disk: AdapterDisk) -> None:
    await stage(disk, version(1))
    world.refusals.record(version(1), AdapterRefused("no", reason="PROBE_MISMATCH"))
    with pytest.raises(AdapterRefused):
        await stage(disk, version(1))


async def test_a_manifest_that_does_not_fit_refuses_before_the_download(
    world: World,
) -> None:
    disk = await world.open_disk(base=replace(served_base(), max_lora_rank=4))
    with pytest.raises(AdapterRefused) as caught:
        await stage(disk, version(1))
    assert caught.value.reason == "RANK_TOO_HIGH"
    assert not world.store.calls["read"]
    await disk.close()
    disk = await world.open_disk(max_weights_bytes=10)
    with pytest.raises(AdapterRefused):
        await stage(disk, version(1))
    assert not world.store.calls["read"]
    await disk.close()


async def test_more_bytes_than_declared_are_never_written(
    world: World, disk: AdapterDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    true_append = download.append

    def append(path: Path, piece: bytes | memoryview) -> None:
        written.append(len(piece))
        true_append(path, piece)

    monkeypatch.setattr(download, "append", append)
    # Grows after its size was listed.
    true_sizes = disk._source._stored_sizes

    async def sizes(of: VersionName) -> dict[str, int]:
        found = await true_sizes(of)
        await world.store.put(f"{of}/{ADAPTER_WEIGHTS}", b"x" * 10**6)
        return found

    monkeypatch.setattr(disk._source, "_stored_sizes", sizes)
    with pytest.raises(AdapterRefused) as caught:
        await stage(disk, version(1))
    assert caught.value.reason == "DIGEST_MISMATCH"
    assert sum(written) <= NEEDED_BYTES


# The bound.


async def test_the_least_recently_used_leaves_the_disk(world: World) -> None:
    one = await size_of_one(world)
    disk = await world.open_disk(max_bytes=2 * one)
    await stage(disk, version(1), version(2), version(1), version(3))
    assert [held.version for held in disk.versions()] == [version(3), version(1)]
    assert len(world.folders()) == 2
    await disk.close()


async def test_a_held_version_stays_and_a_disk_of_held_versions_is_full(world: World) -> None:
    one = await size_of_one(world)
    disk = await world.open_disk(max_bytes=2 * one)
    async with disk.hold(version(1)) as staged:
        async with disk.hold(version(2)):
            with pytest.raises(ResourceExhausted) as caught:
                await stage(disk, version(3))
            assert caught.value.reason == "ADAPTER_DISK_FULL"
            assert disk._used_bytes == 2 * one
        await stage(disk, version(3), version(4))
        assert staged.path.is_dir()
        assert {held.version for held in disk.versions()} == {version(1), version(4)}
    await disk.close()


async def test_fetches_at_once_never_pass_the_bound_together(world: World) -> None:
    one = await size_of_one(world)
    disk = await world.open_disk(max_bytes=2 * one)
    world.store.hangs.add("read")
    waiting = [asyncio.create_task(stage(disk, version(number))) for number in (1, 2, 3)]
    (refused,), _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    with pytest.raises(ResourceExhausted):
        refused.result()
    assert disk._used_bytes == 2 * one
    await disk.close()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert disk._used_bytes == 0


async def test_a_version_larger_than_the_bound_is_refused_for_good(world: World) -> None:
    disk = await world.open_disk(max_bytes=100)
    with pytest.raises(AdapterRefused) as caught:
        await stage(disk, version(1))
    assert caught.value.reason == "ADAPTER_TOO_LARGE"
    assert not caught.value.retryable
    assert not world.store.calls["read"]
    await disk.close()


async def test_a_version_that_comes_back_has_a_new_folder(world: World) -> None:
    one = await size_of_one(world)
    disk = await world.open_disk(max_bytes=one)
    paths = set()
    for number in (1, 2, 1, 2):
        async with disk.hold(version(number)) as staged:
            paths.add(staged.path)
    assert len(paths) == 4
    await disk.close()


async def test_a_version_asked_for_while_it_is_deleted_is_fetched_anew(
    world: World, disk: AdapterDisk
) -> None:
    async with disk.hold(version(1)) as before:
        pass
    disk.forget(version(1))
    async with disk.hold(version(1)) as after:
        assert after.path != before.path
        assert after.path.is_dir()
    await disk.close()
    assert world.folders() == [after.path.name]


async def test_a_forgotten_version_goes_when_nobody_holds_it(
    world: World, disk: AdapterDisk
) -> None:
    async with disk.hold(version(1)) as staged:
        disk.forget(version(1))
        await stage(disk, version(1))
        assert staged.path.is_dir()
    assert not disk.versions()
    disk.forget(version(2))
    await disk.close()
    assert world.folders() == []
    assert disk._used_bytes == 0


# A full disk.


class FullDisk:
    """Gives files of a disk without room, real ENOSPC included, for the next `fails` opens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails = 0
        self._true_open = download.open_unbuffered
        monkeypatch.setattr(download, "open_unbuffered", self._open)

    def _open(self, path: Path) -> object:
        if not self.fails:
            return self._true_open(path)
        self.fails -= 1
        return self._true_open(Path("/dev/full"))


async def test_a_disk_that_fills_is_cleared_once_and_the_fetch_goes_on(
    world: World, disk: AdapterDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = FullDisk(monkeypatch)
    async with disk.hold(version(1)):
        await stage(disk, version(2), version(3))
        full.fails = 2  # The first opening writes nothing: the second one fails.
        await stage(disk, version(4))
        assert [held.version for held in disk.versions()] == [version(4), version(3), version(1)]
    assert len(world.folders()) == 3


async def test_a_disk_that_stays_full_harms_nobody_else(
    world: World, disk: AdapterDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = FullDisk(monkeypatch)
    async with disk.hold(version(1)) as staged:
        used = disk._used_bytes
        full.fails = 1000
        with pytest.raises(ResourceExhausted) as caught:
            await stage(disk, version(2))
        assert caught.value.reason == "DISK_FULL"
        assert caught.value.retry_after > 1
        assert full.fails == 1000 - 4
        assert world.folders() == [staged.path.name]
        assert disk._used_bytes == used
        full.fails = 0
        await stage(disk, version(1), version(2))


async def test_a_disk_that_fails_otherwise_is_told_and_nothing_leaves_it(
    world: World, disk: AdapterDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage(disk, version(2))
    monkeypatch.setattr(download, "open_unbuffered", lambda path: path.open("rb"))
    with pytest.raises(Unavailable) as caught:
        await stage(disk, version(1))
    assert caught.value.reason == "LOCAL_DISK_FAILED"
    assert [held.version for held in disk.versions()] == [version(2)]
    assert len(world.folders()) == 1


# Restarts.


async def test_what_was_fetched_serves_after_a_restart_without_the_store(world: World) -> None:
    disk = await world.open_disk()
    await stage(disk, version(1), version(2))
    used = disk._used_bytes
    await disk.close()
    calls = world.store.calls.copy()
    disk = await world.open_disk()
    assert [(held.version, held.checked) for held in disk.versions()] == [
        (version(2), False),
        (version(1), False),
    ]
    assert disk._used_bytes == used
    world.store.errors |= dict.fromkeys(("objects", "get", "read"), StoreUnavailable("down"))
    async with disk.hold(version(1)) as staged:
        assert staged.probes == Probes(sequences=SEQUENCES)
        assert staged.size * 2 == used
    assert [held.checked for held in disk.versions()] == [True, False]
    assert world.store.calls - calls <= Counter(get=1)
    await disk.close()


async def test_the_order_of_use_survives_a_restart(world: World) -> None:
    disk = await world.open_disk()
    await stage(disk, version(1), version(2), version(1))
    await disk.close()
    disk = await world.open_disk()
    assert [held.version for held in disk.versions()] == [version(1), version(2)]
    size = disk._used_bytes
    await disk.close()
    disk = await world.open_disk(max_bytes=size - 1)
    assert [held.version for held in disk.versions()] == [version(1)]
    assert len(world.folders()) == 1
    await disk.close()


async def test_the_last_use_is_noted_while_serving(world: World) -> None:
    disk = await world.open_disk()
    async with disk.hold(version(1)) as staged:
        pass
    os.utime(staged.path / RECORD, (1, 1))
    await disk.close()
    # A process that is killed notes nothing at its end.
    os.utime(staged.path / RECORD, (1, 1))
    disk = await world.open_disk()
    await stage(disk, version(1))
    await asyncio.to_thread(disk._workers._pool.shutdown)
    assert (staged.path / RECORD).stat().st_mtime > 1


def _cut_record(folder: Path) -> None:
    record = (folder / RECORD).read_bytes()
    (folder / RECORD).write_bytes(record[:-1])


def _other_name(folder: Path) -> None:
    folder.rename(folder.with_name(folder.name.replace("acme", "evil")))


@pytest.mark.parametrize(
    "break_",
    [
        _cut_record,
        _other_name,
        lambda folder: (folder / RECORD).unlink(),
        lambda folder: (folder / RECORD).write_bytes(b""),
        lambda folder: folder.rename(folder.with_name("what.is.this")),
        lambda folder: folder.rename(folder.with_name(f"{folder.name[:-1]}01")),
    ],
)
async def test_what_a_kill_left_incomplete_is_deleted(
    world: World, break_: Callable[[Path], object]
) -> None:
    disk = await world.open_disk()
    async with disk.hold(version(1)) as staged:
        pass
    await disk.close()
    break_(staged.path)
    (world.folder / "a file").write_bytes(b"x")
    disk = await world.open_disk()
    assert world.folders() == []
    assert not disk.versions()
    await stage(disk, version(1))
    await disk.close()


def _flip_byte(folder: Path) -> None:
    data = bytearray((folder / ADAPTER_WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / ADAPTER_WEIGHTS).write_bytes(data)


@pytest.mark.parametrize(
    "break_",
    [
        _flip_byte,
        _cut_record,
        lambda folder: (folder / ADAPTER_WEIGHTS).unlink(),
        lambda folder: (folder / ADAPTER_WEIGHTS).write_bytes(b""),
    ],
)
async def test_bytes_that_changed_on_disk_are_fetched_again(
    world: World, break_: Callable[[Path], object]
) -> None:
    disk = await world.open_disk()
    async with disk.hold(version(1)) as before:
        pass
    await disk.close()
    disk = await world.open_disk()
    break_(before.path)
    async with disk.hold(version(1)) as after:
        assert after.path != before.path
        assert (after.path / ADAPTER_WEIGHTS).read_bytes() == FILES[ADAPTER_WEIGHTS]
    assert world.refusals.get(version(1)) is None
    assert world.folders() == [after.path.name]
    assert disk._used_bytes == after.size
    await disk.close()


async def test_a_disk_that_does_not_give_its_bytes_is_passed_by(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = await world.open_disk()
    async with disk.hold(version(1)) as before:
        pass
    await disk.close()
    disk = await world.open_disk()
    true_check = weights.check_weights

    def check_weights(path: Path, *args: Any) -> None:
        if path.parent == before.path:
            raise OSError(errno.EIO, "Input/output error")
        true_check(path, *args)

    monkeypatch.setattr(check, "check_weights", check_weights)
    async with disk.hold(version(1)) as after:
        assert after.path != before.path
    assert world.refusals.get(version(1)) is None
    await disk.close()


async def test_a_check_without_memory_keeps_the_files(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = await world.open_disk()
    await stage(disk, version(1))
    await disk.close()
    kept = world.folders()
    disk = await world.open_disk()

    def check_weights(*args: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(check, "check_weights", check_weights)
    with pytest.raises(AdapterRefused) as caught:
        await stage(disk, version(1))
    assert caught.value.retryable
    assert world.folders() == kept
    monkeypatch.undo()
    world.refusals.clear(version(1))
    world.store.errors |= dict.fromkeys(("objects", "get", "read"), StoreUnavailable("down"))
    await stage(disk, version(1))
    await disk.close()


@pytest.mark.parametrize("vanished", [False, True])
async def test_what_was_deleted_between_two_processes_leaves_the_disk(
    world: World, vanished: bool
) -> None:
    disk = await world.open_disk()
    await stage(disk, version(1), version(2))
    await disk.close()
    if vanished:
        await delete_folder(world.store, str(version(1)))
    else:
        await world.store.put(f"{version(1)}/tombstone.json", b"{}")
    disk = await world.open_disk()
    # The answer may come first or last: a store that hangs delays nobody.
    async with AsyncExitStack() as stack:
        with suppress(NotFound):
            await stack.enter_async_context(disk.hold(version(1)))
        await stage(disk, version(2))
        await looked(disk)
    with pytest.raises(NotFound):
        await stage(disk, version(1))
    assert [held.version for held in disk.versions()] == [version(2)]
    await disk.close()
    assert len(world.folders()) == 1


async def test_a_look_for_a_deletion_keeps_nobody_waiting_and_ends_with_the_disk(
    world: World,
) -> None:
    disk = await world.open_disk()
    await stage(disk, version(1))
    await disk.close()
    world.store.hangs.add("get")
    disk = await world.open_disk()
    await stage(disk, version(1))
    await world.store.hanging.wait()
    await disk.close()
    assert not disk._looks._tasks


async def test_a_deletion_that_is_seen_before_the_check_ends_serves_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = await world.open_disk()
    await stage(disk, version(1))
    await disk.close()
    await world.store.put(f"{version(1)}/tombstone.json", b"{}")
    disk = await world.open_disk()
    true_check = disk._source.check

    async def check_late(path: Path) -> Probes:
        probes = await true_check(path)
        await looked(disk)
        return probes

    monkeypatch.setattr(disk._source, "check", check_late)
    with pytest.raises(NotFound) as caught:
        await stage(disk, version(1))
    assert caught.value.reason == "VERSION_DELETED"
    await disk.close()
    assert world.folders() == []
    assert disk._used_bytes == 0


async def test_odd_things_in_the_folder_are_put_away_and_lead_nowhere(
    world: World, tmp_path: Path
) -> None:
    disk = await world.open_disk()
    async with disk.hold(version(1)) as staged:
        pass
    await disk.close()
    elsewhere = tmp_path / "elsewhere"
    staged.path.rename(elsewhere)
    for name in (staged.path.name, "a link"):
        (world.folder / name).symlink_to(elsewhere)
    (world.folder / "to nowhere").symlink_to(tmp_path / "nothing")
    os.mkfifo(world.folder / "a pipe")
    (world.folder / "deep" / "er").mkdir(parents=True)
    (world.folder / "acme.support.nested").mkdir()
    folder = world.folder / folder_name(version(2), 1)
    folder.mkdir()
    (folder / RECORD).write_bytes(b"[" * 100_000)
    disk = await world.open_disk()
    assert not disk.versions()
    assert world.folders() == []
    assert {file.name for file in elsewhere.iterdir()} == {*FILES, RECORD}
    await disk.close()


async def test_a_version_kept_for_another_base_is_refused(world: World) -> None:
    disk = await world.open_disk()
    await stage(disk, version(1))
    await disk.close()
    disk = await world.open_disk(base=replace(served_base(), digest=f"sha256:{'b' * 64}"))
    world.store.errors["objects"] = StoreUnavailable("down")
    with pytest.raises(AdapterRefused) as caught:
        await stage(disk, version(1))
    assert caught.value.reason == "BASE_MISMATCH"
    assert world.folders() == []
    await disk.close()
    assert disk._used_bytes == 0


async def test_of_two_folders_of_a_version_the_newer_is_kept(world: World) -> None:
    disk = await world.open_disk()
    async with disk.hold(version(1)) as staged:
        pass
    await disk.close()
    for number in (7, 5):
        shutil.copytree(staged.path, staged.path.with_name(f"{staged.path.name[:-1]}{number}"))
    disk = await world.open_disk()
    assert world.folders() == [f"{staged.path.name[:-1]}7"]
    assert disk._used_bytes == staged.size
    async with disk.hold(version(2)) as other:
        assert other.path.name.endswith(".8")
    await disk.close()


# Cancellation.


async def stage_cancelled(disk: AdapterDisk, at: int) -> bool:
    """Cancel the staging of version 1 at suspension `at`; False if there were fewer."""
    begin = disk._begin
    watched: list[CancelledAt] = []

    def begin_cancelled(entry: Any) -> Coroutine[Any, Any, Any]:
        watched.append(CancelledAt(begin(entry), at))
        return watched[0].run()

    with patch.object(disk, "_begin", begin_cancelled), suppress(Unavailable):
        await stage(disk, version(1))
    return watched[0].suspensions >= at


async def test_a_staging_cancelled_anywhere_leaves_nothing(world: World) -> None:
    for at in itertools.count(1):
        disk = await world.open_disk()
        if at % 2:
            # The way through a broken folder of an earlier process.
            await stage(disk, version(1))
            await disk.close()
            disk = await world.open_disk()
            (folder,) = world.folder.iterdir()
            _flip_byte(folder)
        if not await stage_cancelled(disk, at // 2 + 1):
            break
        assert all(entry.holds == 0 for entry in disk._entries.values())
        assert disk._used_bytes == sum(held.size for held in disk.versions())
        assert len(world.folders()) == len(disk.versions())
        assert world.store.reading == 0
        # Nothing stands in the way of the next one.
        await stage(disk, version(1))
        disk.forget(version(1))
        await disk.close()
    assert at > 20
    await disk.close()


async def test_a_hold_after_close_is_released_in_peace(world: World) -> None:
    disk = await world.open_disk()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(disk.hold(version(1)))
        disk._entries[version(1)].noted = disk._entries[version(1)].noted.replace(year=2000)
        await disk.close()
        assert disk._entries[version(1)].holds == 1
    assert disk._entries[version(1)].holds == 0


async def test_a_closed_disk_fetches_nothing(world: World) -> None:
    disk = await world.open_disk()
    async with disk.hold(version(1)):
        disk.forget(version(1))
        await disk.close()
    with pytest.raises(Unavailable) as caught:
        await stage(disk, version(2))
    assert caught.value.reason == "SHUTTING_DOWN"
