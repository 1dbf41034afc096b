"""Routes kept on disk: as a whole or as they were, and never in the way."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from serving_svc.adapters.routing.routes_on_disk import RoutesOnDisk, SavedRoute
from tailorbird.names import AdapterName
from tests.unit.serving_svc.adapters.routed import ADAPTER, route

OTHER = AdapterName("globex", "support")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "routes"


@pytest.fixture
async def saved(folder: Path) -> AsyncIterator[RoutesOnDisk]:
    saved = RoutesOnDisk(folder, delay=0)
    yield saved
    await saved.close()


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def put_in_the_way(folder: Path) -> None:
    folder.parent.mkdir()
    folder.write_text("a file")


def clear_the_way(folder: Path) -> None:
    folder.unlink()


async def written(saved: RoutesOnDisk) -> None:
    while saved._writer is not None and not saved._writer.done():
        await saved._writer


async def test_the_last_route_is_there_at_once_and_after_a_restart(
    saved: RoutesOnDisk, folder: Path
) -> None:
    assert await saved.load(ADAPTER) is None
    for generation in (1, 2):
        saved.save(ADAPTER, route(generation, 1))
    assert await saved.load(ADAPTER) == SavedRoute(route(2, 1), of_this_life=True)
    await written(saved)
    assert await saved.load(ADAPTER) == SavedRoute(route(2, 1), of_this_life=True)
    assert await saved.load(OTHER) is None
    again = RoutesOnDisk(folder)
    assert await again.load(ADAPTER) == SavedRoute(route(2, 1), of_this_life=False)
    await again.close()


async def test_closing_writes_what_waits(folder: Path) -> None:
    saved = RoutesOnDisk(folder, delay=1000)
    saved.save(ADAPTER, route(1, 1))
    await saved.close()
    again = RoutesOnDisk(folder)
    assert await again.load(ADAPTER) == SavedRoute(route(1, 1), of_this_life=False)
    await again.close()


async def test_a_dropped_route_is_gone_at_once_and_for_good(
    saved: RoutesOnDisk, folder: Path
) -> None:
    saved.save(ADAPTER, route(1, 1))
    await written(saved)
    saved.drop(ADAPTER)
    assert await saved.load(ADAPTER) is None
    saved.drop(OTHER)
    await written(saved)
    assert await saved.load(ADAPTER) is None
    assert files(folder) == []


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"{}", b"[" * 100_000])
async def test_a_corrupt_file_is_passed_over_with_a_warning(
    saved: RoutesOnDisk, folder: Path, data: bytes
) -> None:
    saved.save(ADAPTER, route(1, 1))
    await written(saved)
    (file,) = files(folder)
    file.write_bytes(data)
    with capture_logs() as logs:
        assert await saved.load(ADAPTER) is None
    assert [entry["log_level"] for entry in logs] == ["warning"]
    saved.save(ADAPTER, route(2, 1))
    await written(saved)
    assert await saved.load(ADAPTER) == SavedRoute(route(2, 1), of_this_life=True)


async def test_another_adapters_file_is_passed_over(saved: RoutesOnDisk, folder: Path) -> None:
    saved.save(ADAPTER, route(1, 1))
    await written(saved)
    (file,) = files(folder)
    file.rename(saved._path(OTHER))
    assert await saved.load(OTHER) is None


async def test_a_disk_that_cannot_be_written_is_told_once_and_stops_nothing(
    saved: RoutesOnDisk, folder: Path
) -> None:
    put_in_the_way(folder)
    with capture_logs() as logs:
        for generation in (1, 2):
            saved.save(ADAPTER, route(generation, 1))
            await written(saved)
    assert [entry["event"] for entry in logs] == ["routes cannot be kept on disk"]
    clear_the_way(folder)
    saved.save(ADAPTER, route(3, 1))
    await written(saved)
    assert await saved.load(ADAPTER) == SavedRoute(route(3, 1), of_this_life=True)


async def test_files_are_bounded_in_number_and_the_oldest_go(folder: Path) -> None:
    saved = RoutesOnDisk(folder, max_adapters=10, delay=0)
    names = [AdapterName("acme", f"a{number}") for number in range(11)]
    for number, name in enumerate(names):
        saved.save(name, route(1, 1))
        await written(saved)
        if number < 10:
            os.utime(saved._path(name), (number, number))
    kept = [name for name in names if await saved.load(name) is not None]
    assert kept == names[2:]
    await saved.close()


async def test_a_full_disk_leaves_no_older_route_and_stops_no_other(
    saved: RoutesOnDisk, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    third = AdapterName("initech", "support")
    for adapter in (ADAPTER, OTHER, third):
        saved.save(adapter, route(1, 1))
    await written(saved)
    true_fsync, full = os.fsync, iter([True])

    def fsync(file: int) -> None:
        if next(full, False):
            raise OSError(errno.ENOSPC, "No space left on device")
        true_fsync(file)

    monkeypatch.setattr(os, "fsync", fsync)
    saved.save(ADAPTER, route(2, 2))
    saved.save(OTHER, route(2, 2))
    saved.drop(third)
    with capture_logs() as logs:
        await written(saved)
    assert [entry["event"] for entry in logs] == ["routes cannot be kept on disk"]
    assert await saved.load(ADAPTER) is None
    assert await saved.load(OTHER) == SavedRoute(route(2, 2), of_this_life=True)
    assert [file.name for file in files(folder)] == ["globex.support.json"]
