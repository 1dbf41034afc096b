"""What was deleted leaves a replica, whether or not anybody asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serving_svc.adapters.disk import Deletions, deletions
from tailorbird.errors import NotFound
from tailorbird.names import VersionName
from tests.unit.serving_svc.adapters.routed import ADAPTER, Parts, version

INTERVAL = 600.0


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    parts = Parts(tmp_path)
    await parts.publish(1, 2, 3)
    yield parts
    await parts.close()


def looking(parts: Parts, *numbers: int) -> tuple[Deletions, list[VersionName]]:
    found: list[VersionName] = []
    held = [version(number) for number in numbers]
    return Deletions(parts.registry, lambda: held, found.append, interval=INTERVAL), found


async def round_of(looks: Deletions, monkeypatch: pytest.MonkeyPatch, pauses: int) -> list[float]:
    """Let it look until it has paused so often; return its pauses."""
    slept: list[float] = []
    done = asyncio.Event()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == pauses:
            done.set()
            await asyncio.Event().wait()

    monkeypatch.setattr("serving_svc.adapters.disk.deletions.asyncio.sleep", sleep)
    task = asyncio.ensure_future(looks.run())
    await done.wait()
    task.cancel()
    return slept


async def test_what_has_a_tombstone_is_told(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    looks, found = looking(parts, 1, 2, 3)
    await parts.registry.bury(version(2), "test")
    pauses = await round_of(looks, monkeypatch, pauses=5)
    assert found == [version(2)]
    # One after the other, over the whole interval, and then again.
    assert pauses == [INTERVAL / 4] * 5


async def test_with_nothing_here_it_waits_for_the_next_time(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, found = looking(parts)
    assert await round_of(looks, monkeypatch, pauses=2) == [INTERVAL] * 2
    assert found == []


async def test_so_many_that_there_is_no_time_keep_the_store_at_ease(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Deletions(parts.registry, lambda: [version(1)] * 9, print, interval=0.001)
    assert await round_of(looks, monkeypatch, pauses=2) == [deletions._SHORTEST_PAUSE] * 2


async def test_a_store_that_fails_tells_nothing_and_ends_nothing(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, found = looking(parts, 1, 2)
    for number in (1, 2):
        await parts.registry.bury(version(number), "test")
    parts.store.fail(f"get {version(1)}")
    await round_of(looks, monkeypatch, pauses=3)
    assert found == [version(2)]


async def test_a_store_that_hangs_is_not_waited_for(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletions, "_READ_SECONDS", 0.01)
    looks, found = looking(parts, 1)
    parts.store.hang(f"get {version(1)}")
    await looks.look(version(1))
    assert found == []


async def test_a_version_that_nobody_asks_for_leaves_the_replica(parts: Parts) -> None:
    await parts.route(1)
    await parts.generation()
    await parts.registry.bury(version(1), "test")
    looks = Deletions(parts.registry, lambda: [version(1)], parts.router.deleted, interval=INTERVAL)
    await looks.look(version(1))
    assert parts.gate.dropped == [version(1)]
    await parts.settled()
    with pytest.raises(NotFound):
        parts.router.named(version(1))
    assert parts.router.effective_generation(ADAPTER) == 0
