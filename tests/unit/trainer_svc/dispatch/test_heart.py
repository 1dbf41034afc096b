"""Leases are kept while the job store answers, and nobody's is taken over while it did not."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from tailorbird.names import JobName
from trainer_svc.dispatch.heart import Heart
from trainer_svc.jobs.database import DatabaseUnavailable
from trainer_svc.jobs.leases import Kept
from trainer_svc.jobs.model import Left

ONE = JobName("acme", "one")
KEPT = {ONE: Kept(epoch=1, cancel_requested=False, pause_requested=False)}


class Store:
    """A job store that fails, or hangs, when it is told to."""

    def __init__(self, lease_seconds: float = 30.0) -> None:
        self.lease_seconds = lease_seconds
        self.error: Exception | None = None
        self.hangs = False
        self.looks = 0
        self.beats: asyncio.Queue[str] = asyncio.Queue()

    async def keep_leases(self, owner: str) -> dict[JobName, Kept]:
        self.beats.put_nowait(owner)
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        return KEPT

    async def take_over(self) -> list[Left]:
        self.looks += 1
        return [Left(ONE, "")]


class Heard:
    """Whoever is told of the leases."""

    def __init__(self) -> None:
        self.kept_calls: list[tuple[Mapping[JobName, int], Mapping[JobName, Kept]]] = []
        self.well: list[bool] = []
        self.over: list[Left] = []

    def holders(self) -> Mapping[JobName, int]:
        return {ONE: 1}

    async def kept(self, before: Mapping[JobName, int], kept: Mapping[JobName, Kept]) -> None:
        self.kept_calls.append((before, kept))

    async def answers(self, *, well: bool) -> None:
        self.well.append(well)

    def taken_over(self, cancelled: list[Left]) -> None:
        self.over += cancelled


class Parts:
    def __init__(self, lease_seconds: float = 30.0) -> None:
        self.now = 0.0
        self.store = Store(lease_seconds)
        self.heard = Heard()
        store: Any = self.store
        self.heart = Heart(store, "me", self.heard, clock=lambda: self.now)


async def test_each_beat_keeps_what_is_held_and_takes_over_what_is_over() -> None:
    parts = Parts(lease_seconds=30.0)
    parts.now = 30.0
    await parts.heart.beat()
    assert parts.heard.kept_calls == [({ONE: 1}, KEPT)]
    assert parts.heard.over == [Left(ONE, "")]
    assert parts.heard.well == [True]
    assert parts.store.beats.get_nowait() == "me"


async def test_one_that_has_just_begun_takes_nothing_over() -> None:
    parts = Parts(lease_seconds=30.0)
    for now in (0.0, 29.9):
        # The job store may be back for no longer: others have not kept theirs yet.
        parts.now = now
        await parts.heart.beat()
    assert parts.store.looks == 0
    assert len(parts.heard.kept_calls) == 2
    parts.now = 30.0
    await parts.heart.beat()
    assert parts.store.looks == 1


async def test_after_an_outage_nothing_is_taken_over_for_the_time_of_a_lease() -> None:
    parts = Parts(lease_seconds=30.0)
    parts.store.error = DatabaseUnavailable("away")
    parts.now = 100.0
    await parts.heart.beat()
    parts.store.error = None
    for now in (101.0, 129.9):
        parts.now = now
        await parts.heart.beat()
    assert parts.store.looks == 0
    parts.now = 130.0
    await parts.heart.beat()
    assert parts.store.looks == 1
    assert parts.heard.well == [False, True, True, True]
    assert len(parts.heard.kept_calls) == 3


async def test_a_store_that_hangs_does_not_answer() -> None:
    parts = Parts(lease_seconds=0.02)
    parts.store.hangs = True
    async with asyncio.timeout(20):
        await parts.heart.beat()
    assert parts.heard.well == [False]
    assert parts.heard.kept_calls == []
    assert parts.store.looks == 0


async def test_whatever_fails_the_next_beat_comes() -> None:
    parts = Parts(lease_seconds=0.02)
    parts.store.error = RuntimeError("a bug")
    async with asyncio.timeout(20), parts.heart.beating():
        for _ in range(3):
            await parts.store.beats.get()
        parts.store.error = None
        await parts.store.beats.get()
        await parts.store.beats.get()
    assert True in parts.heard.well


async def test_a_beat_can_be_hastened() -> None:
    parts = Parts(lease_seconds=4000.0)
    async with asyncio.timeout(20), parts.heart.beating():
        for _ in range(3):
            await parts.store.beats.get()
            parts.heart.hasten()


@pytest.mark.parametrize("hangs", [False, True])
async def test_it_beats_no_more_after_the_block_even_if_the_store_hangs(
    monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    monkeypatch.setattr("trainer_svc.dispatch.heart._END_SECONDS", 0.01)
    parts = Parts(lease_seconds=0.5)
    parts.store.hangs = hangs
    async with asyncio.timeout(20):
        async with parts.heart.beating():
            await parts.store.beats.get()
        tasks = {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
        if tasks:
            await asyncio.wait(tasks)
    assert parts.store.beats.empty()


async def test_a_store_that_hangs_as_leases_are_taken_over_holds_up_no_beat() -> None:
    parts = Parts(lease_seconds=0.02)

    async def hang() -> list[Left]:
        return await asyncio.Future()

    parts.store.take_over = hang  # type: ignore[method-assign]
    async with asyncio.timeout(20):
        await parts.heart.beat()
    assert parts.heard.well == [True]
    assert len(parts.heard.kept_calls) == 1
    assert parts.heard.over == []
