"""Object stores that fail or stand still where a test wants it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from obstore.store import LocalStore

from tailorbird.errors import StoreUnavailable
from tailorbird.object_store import ObstoreStore


class TryingStore(ObstoreStore):
    """A folder. A put fails where its key holds `fails`, a get where it holds `down`.

    What holds `waits` stands still.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(LocalStore(folder, automatic_cleanup=True))
        self.fails: str | None = None
        self.down: str | None = None
        self.full = False
        self.waits: str | None = None
        self.waiting = asyncio.Event()
        self.go_on = asyncio.Event()
        self.puts: list[str] = []
        self.gets: list[str] = []
        self.downloads: list[str] = []

    async def seed(self, key: str, data: bytes) -> None:
        """Put what is there before the test."""
        await super().put(key, data)

    async def put(self, key: str, data: bytes) -> None:
        self.puts.append(key)
        await self._wait(key)
        if self.fails is not None and self.fails in key:
            reason = "DISK_FULL" if self.full else None
            raise StoreUnavailable("the object store failed", reason=reason)
        await super().put(key, data)

    async def get(self, key: str, max_bytes: int | None = None) -> bytes:
        self.gets.append(key)
        await self._wait(key)
        if self.down is not None and self.down in key:
            raise StoreUnavailable("the object store failed")
        return await super().get(key, max_bytes)

    async def create(self, key: str, data: bytes) -> None:
        await self._wait(key)
        await super().create(key, data)

    async def download(self, key: str, path: Path) -> int:
        self.downloads.append(key)
        await self._wait(key)
        return await super().download(key, path)

    async def _wait(self, key: str) -> None:
        if self.waits is not None and self.waits in key:
            self.waiting.set()
            await self.go_on.wait()
