"""What any object store must do; here a local folder and a real S3 server."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import obstore
import pytest
from obstore.exceptions import GenericError
from obstore.store import S3Store

from tailorbird.errors import DataCorrupt, InvalidArgument, NotFound, StoreUnavailable
from tailorbird.object_store import (
    ObjectExists,
    ObstoreStore,
    Patience,
    delete_folder,
    open_store,
)
from tailorbird.store_upload import upload_in_parts


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def file_store(tmp_path: Path) -> ObstoreStore:
    return open_store((tmp_path / "a folder" / "store").as_uri())


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest) -> ObstoreStore:
    found: ObstoreStore = request.getfixturevalue(f"{request.param}_store")
    return found


@pytest.fixture
def s3_store(s3_url: str) -> ObstoreStore:
    return open_store(s3_url)


async def test_gives_back_what_was_put(store: ObstoreStore, tmp_path: Path) -> None:
    await store.put("a/b", b"one")
    await store.put("a/b", b"two")
    assert await store.get("a/b") == b"two"
    assert await store.download("a/b", tmp_path / "copy") == 3
    assert (tmp_path / "copy").read_bytes() == b"two"


async def test_an_object_larger_than_asked_for_is_not_read(store: ObstoreStore) -> None:
    await store.put("a/b", b"four")
    assert await store.get("a/b", 4) == b"four"
    with pytest.raises(DataCorrupt, match="4 bytes") as caught:
        await store.get("a/b", 3)
    assert caught.value.reason == "OBJECT_TOO_LARGE"


async def test_a_file_larger_than_a_part_goes_up_and_down(
    store: ObstoreStore, tmp_path: Path
) -> None:
    data = bytes(range(256)) * 4096 * 20
    (tmp_path / "big").write_bytes(data)
    await store.upload("a/big", tmp_path / "big")
    assert await store.download("a/big", tmp_path / "copy") == len(data)
    assert (tmp_path / "copy").read_bytes() == data


@pytest.mark.parametrize("size", [9 * 2**20, 41 * 2**20], ids=["less", "more"])
async def test_a_file_that_changes_while_it_goes_up_is_not_stored(
    store: ObstoreStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    path = tmp_path / "big"
    path.write_bytes(bytes(40 * 2**20))

    async def changed(*asked: Any) -> None:
        os.truncate(path, size)
        await upload_in_parts(*asked)

    monkeypatch.setattr("tailorbird.object_store.upload_in_parts", changed)
    with pytest.raises(StoreUnavailable):
        await store.upload("a/big", path)
    with pytest.raises(NotFound):
        await store.get("a/big")


async def test_a_large_object_is_read_in_order_in_small_pieces(
    store: ObstoreStore, tmp_path: Path
) -> None:
    data = bytes(range(256)) * 4096 * 20
    (tmp_path / "big").write_bytes(data)
    await store.upload("a/big", tmp_path / "big")
    pieces = [bytes(piece) async for piece in store.read("a/big")]
    assert b"".join(pieces) == data
    assert len(pieces) > 4
    with pytest.raises(NotFound):
        await anext(store.read("a/none"))


async def test_tells_when_an_object_was_written(store: ObstoreStore) -> None:
    # A store's clock may count whole seconds.
    before = datetime.now(UTC) - timedelta(seconds=2)
    await store.put("a/b", b"x")
    (info,) = [info async for info in store.objects("a")]
    assert before <= info.modified <= datetime.now(UTC) + timedelta(seconds=2)


async def test_create_never_overwrites(store: ObstoreStore) -> None:
    await store.create("a/b", b"one")
    with pytest.raises(ObjectExists):
        await store.create("a/b", b"two")
    assert await store.get("a/b") == b"one"


async def test_one_of_many_creators_wins(store: ObstoreStore) -> None:
    results = await asyncio.gather(
        *(store.create("a/b", str(i).encode()) for i in range(8)), return_exceptions=True
    )
    assert sum(result is None for result in results) == 1
    assert sum(isinstance(result, ObjectExists) for result in results) == 7


async def test_what_is_not_there_is_not_found(store: ObstoreStore, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        await store.get("a/b")
    with pytest.raises(NotFound):
        await store.download("a/b", tmp_path / "copy")
    await store.delete("a/b")


async def test_lists_a_folder_and_nothing_beside_it(store: ObstoreStore) -> None:
    for key in ("a/b/1", "a/b/2/3", "a/bc/4", "d"):
        await store.put(key, b"x")
    assert sorted([i.key async for i in store.objects("a/b")]) == ["a/b/1", "a/b/2/3"]
    assert await store.folders("a") == ["b", "bc"]
    assert await store.folders("none") == []
    assert [i.key async for i in store.objects("none")] == []


async def test_deletes_a_folder_whole(store: ObstoreStore) -> None:
    for key in ("a/b/manifest.json", "a/b/2/3", "a/c"):
        await store.put(key, b"x")
    await delete_folder(store, "a/b", first="manifest.json")
    assert [i.key async for i in store.objects("a")] == ["a/c"]
    assert await store.folders("a") == []


async def test_a_store_that_is_down_is_unavailable() -> None:
    backend = S3Store(
        "bucket",
        endpoint="http://127.0.0.1:9",
        access_key_id="x",
        secret_access_key="x",
        region="us-east-1",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    with pytest.raises(StoreUnavailable):
        await ObstoreStore(backend, patience=Patience(0.0)).get("a")


@pytest.mark.parametrize("url", ["", "/tmp/x", "http://x/y", "ftp://x"])
def test_refuses_urls_that_name_no_store(url: str) -> None:
    with pytest.raises(InvalidArgument, match="object_store"):
        open_store(url)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
async def test_a_store_in_a_folder_says_that_its_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As obstore words it; a real full disk needs a file system of its own."""

    async def fail(*_: object, **__: object) -> None:
        raise GenericError(f"Unable to copy data to file: no (os error {number})")

    monkeypatch.setattr("obstore.put_async", fail)
    with pytest.raises(StoreUnavailable) as caught:
        await open_store(tmp_path.as_uri()).put("key", b"x")
    assert (caught.value.reason == "DISK_FULL") is (number != errno.EIO)
    assert caught.value.message == f"the object store failed at key: {os.strerror(number)}"


async def test_a_download_onto_a_full_disk_says_so(tmp_path: Path) -> None:
    store = open_store((tmp_path / "store").as_uri())
    await store.put("key", b"x" * 100_000)
    (tmp_path / "copy").write_bytes(b"of before")
    (tmp_path / "copy.part").symlink_to("/dev/full")
    with pytest.raises(StoreUnavailable) as caught:
        await store.download("key", tmp_path / "copy")
    assert caught.value.reason == "DISK_FULL"
    assert (tmp_path / "copy").read_bytes() == b"of before"
    assert files_in(tmp_path) == ["copy", "store"]


async def test_a_download_that_cannot_be_kept_is_no_object_that_is_not_there(
    tmp_path: Path,
) -> None:
    store = open_store((tmp_path / "store").as_uri())
    await store.put("key", b"x")
    with pytest.raises(StoreUnavailable, match="No such file"):
        await store.download("key", tmp_path / "no folder" / "copy")


async def test_an_empty_object_is_whole(store: ObstoreStore, tmp_path: Path) -> None:
    await store.create("a/b", b"")
    assert await store.get("a/b") == b""
    assert [piece async for piece in store.read("a/b")] == []
    assert await store.download("a/b", tmp_path / "copy") == 0
    assert (tmp_path / "copy").read_bytes() == b""
    await store.upload("a/c", tmp_path / "copy")
    assert await store.get("a/c") == b""


class Short:
    """What a driver gives that does not notice that a body ends before its length."""

    meta: ClassVar[dict[str, Any]] = {"size": 10, "e_tag": "a"}

    async def bytes_async(self) -> bytes:
        return b"x" * 9

    def stream(self, min_chunk_size: int) -> AsyncIterator[bytes]:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"x" * 4
            yield b"x" * 5

        return pieces()


async def test_less_than_was_announced_is_never_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store((tmp_path / "store").as_uri())

    async def short(*_: object, **__: object) -> Short:
        return Short()

    monkeypatch.setattr("obstore.get_async", short)
    for call in (store.get("a/b"), store.download("a/b", tmp_path / "copy")):
        with pytest.raises(StoreUnavailable):
            await call
    with pytest.raises(StoreUnavailable):
        [piece async for piece in store.read("a/b")]
    assert files_in(tmp_path) == ["store"]


@pytest.mark.parametrize("left", [0, 7, 3 * 2**20])
async def test_a_file_that_was_made_shorter_is_never_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    """As a failing disk, or somebody else's hand, leaves a file that is being read."""
    store = open_store((tmp_path / "store").as_uri(), stall_seconds=0.2)
    get = obstore.get_async

    async def shortened(*args: Any, **kwargs: Any) -> Any:
        found = await get(*args, **kwargs)
        os.truncate(tmp_path / "store" / "a" / "b", left)
        return found

    monkeypatch.setattr("obstore.get_async", shortened)
    for call in (store.get("a/b"), store.download("a/b", tmp_path / "copy")):
        await store.put("a/b", b"x" * (5 * 2**20))
        with pytest.raises(StoreUnavailable):
            await call
    assert files_in(tmp_path) == ["store"]
