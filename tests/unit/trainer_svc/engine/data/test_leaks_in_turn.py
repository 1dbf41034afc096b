"""Two jobs' digests are not held at once, and a job that leaves takes nobody's turn along."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.unit.trainer_svc.engine.indexed import numbered, seeded
from tests.unit.trainer_svc.engine.stores import TryingStore
from trainer_svc.engine.data.cache import DatasetCache
from trainer_svc.engine.data.files import DatasetFiles
from trainer_svc.engine.data.leaks import Leaks


class Asked(TryingStore):
    """Names what it was asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.asked: set[str] = set()

    async def get(self, key: str, max_bytes: int | None = None) -> bytes:
        self.asked.add(key)
        return await super().get(key, max_bytes)


async def test_digests_are_read_when_those_before_are_done_with(tmp_path: Path) -> None:
    store = Asked(tmp_path / "store")
    leaks = Leaks(DatasetFiles(store, DatasetCache(tmp_path / "cache", 2**20)))
    first, gone, last = [
        [await seeded(store, numbered(0, 3), f"{job}-{data}") for data in ("train", "held")]
        for job in ("first", "gone", "last")
    ]
    store.waits = first[0].index_key
    reading = asyncio.create_task(leaks.between(first[0], first[1]))
    await store.waiting.wait()
    leaving = asyncio.create_task(leaks.between(gone[0], gone[1]))
    waiting = asyncio.create_task(leaks.between(last[0], last[1]))
    for _ in range(9):
        await asyncio.sleep(0)
    assert store.asked <= {each.index_key for each in first}
    for task in (leaving, reading):
        task.cancel()
    async with asyncio.timeout(30):
        assert (await waiting).unknown == ""
    assert not store.asked & {each.index_key for each in gone}
