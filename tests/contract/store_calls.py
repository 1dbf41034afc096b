"""Every call of a store, the store it is made on, and what may befall it.

A bucket of a real S3 server, seen through a proxy that spoils what it is told to.
"""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from tailorbird.object_store import ObstoreStore, open_store
from tests.fault_proxy import Fault, FaultProxy, answered, cut, reset

DATA = bytes(range(256)) * 4096 * 5
"""Five pieces."""
PART = 8 * 2**20


@pytest.fixture
async def sound(s3_url: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> ObstoreStore:
    """The same bucket, without a proxy before it; it holds a/b."""
    store = open_store(s3_url)
    await store.put("a/b", DATA)
    return store


@pytest.fixture
def store(sound: ObstoreStore, proxy: FaultProxy, s3_url: str) -> ObstoreStore:
    """Patient enough for any one fault."""
    return open_store(s3_url, retry_seconds=60, stall_seconds=20)


@pytest.fixture
def hurried(sound: ObstoreStore, proxy: FaultProxy, s3_url: str) -> ObstoreStore:
    """Gives up soon."""
    return open_store(s3_url, retry_seconds=0.5, stall_seconds=0.5)


class Calls:
    """Every method of a store, with what it returns when all is well."""

    def __init__(self, store: ObstoreStore, folder: Path) -> None:
        self._store = store
        self._folder = folder

    async def get(self) -> None:
        assert await self._store.get("a/b") == DATA

    async def read(self) -> None:
        assert b"".join([bytes(piece) async for piece in self._store.read("a/b")]) == DATA

    async def download(self) -> None:
        assert await self._store.download("a/b", self._folder / "copy") == len(DATA)
        assert (self._folder / "copy").read_bytes() == DATA

    async def create(self) -> None:
        await self._store.create("a/new", b"new")

    async def put(self) -> None:
        await self._store.put("a/new", b"new")

    async def upload(self) -> None:
        (self._folder / "file").write_bytes(DATA * 4)
        await self._store.upload("a/new", self._folder / "file")

    async def delete(self) -> None:
        await self._store.delete("a/b")

    async def objects(self) -> None:
        assert [info.key async for info in self._store.objects("a")] == ["a/b"]

    async def folders(self) -> None:
        assert await self._store.folders("") == ["a"]


READS = ["get", "read", "download"]
LISTS = ["objects", "folders"]
WRITES = ["create", "put", "upload", "delete"]
SLOW_DOWN = answered("503 Slow Down", body="<Error><Code>SlowDown</Code></Error>")
RETRY_AFTER = answered("503 Service Unavailable", "Retry-After: 1")
FAULTS = {"503": SLOW_DOWN, "retry after": RETRY_AFTER, "reset": reset}
BREAKS = {"cut": cut(7), "reset in the body": cut(7, reset)}


def cases(*lots: tuple[list[str], dict[str, Fault]]) -> list[Any]:
    return [
        pytest.param(name, fault, id=f"{name}-{id_}")
        for names, faults in lots
        for name in names
        for id_, fault in faults.items()
    ]


def objects_of(sound: ObstoreStore) -> Awaitable[dict[str, int]]:
    async def found() -> dict[str, int]:
        return {info.key: info.size async for info in sound.objects("a")}

    return found()
