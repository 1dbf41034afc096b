"""What comes or goes in parts and breaks off between them: objects, listings, uploads."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from math import inf
from pathlib import Path

import pytest

from tailorbird.errors import StoreUnavailable
from tailorbird.object_store import ObstoreStore, open_store
from tests.contract.store_calls import (
    DATA,
    PART,
    SLOW_DOWN,
    Calls,
    hurried,
    objects_of,
    sound,
    store,
)
from tests.fault_proxy import Exchange, Fault, FaultProxy, answered, cut, hung, lost, reset

__all__ = ["hurried", "sound", "store"]


@pytest.mark.parametrize("name", ["read", "download"])
@pytest.mark.parametrize("end", [None, reset], ids=["cut", "reset"])
async def test_an_object_that_breaks_off_is_read_on_where_it_did(
    store: ObstoreStore, proxy: FaultProxy, tmp_path: Path, name: str, end: Fault | None
) -> None:
    proxy.plan(cut(3 * 2**20 + 7, end))
    proxy.plan(SLOW_DOWN)
    proxy.plan(cut(2**20 + 7, end))
    await getattr(Calls(store, tmp_path), name)()
    starts = [int(*re.findall("bytes=([0-9]+)-", seen) or "0") for seen in proxy.seen]
    assert starts == sorted(starts)
    if end is None:
        # A reset may take with it what was sent before it.
        assert 0 == starts[0] < starts[1] == starts[2] < starts[3]


@pytest.mark.parametrize("end", [None, hung], ids=["cut", "hangs"])
async def test_pieces_of_two_objects_are_never_one(
    hurried: ObstoreStore, sound: ObstoreStore, proxy: FaultProxy, tmp_path: Path, end: Fault | None
) -> None:
    async def replaced(exchange: Exchange) -> None:
        await cut(3 * 2**20, end and replaced_now)(exchange)
        if end is None:
            await sound.put("a/b", DATA[::-1])

    async def replaced_now(exchange: Exchange) -> None:
        await sound.put("a/b", DATA[::-1])
        await hung(exchange)

    proxy.plan(replaced)
    with pytest.raises(StoreUnavailable, match="412 Precondition Failed"):
        await hurried.download("a/b", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


async def test_a_store_without_tags_is_not_asked_for_the_rest(
    store: ObstoreStore, proxy: FaultProxy
) -> None:
    async def untagged(exchange: Exchange) -> None:
        head, _, body = (await exchange.reply()).partition(b"\r\n\r\n")
        head = re.sub(rb"(?i)\r\nETag:[^\r]*", b"", head)
        await exchange.send(head + b"\r\n\r\n" + body[: 3 * 2**20])

    proxy.plan(untagged, times=inf)
    with pytest.raises(StoreUnavailable, match="broke off at byte"):
        [piece async for piece in store.read("a/b")]


def page(keys: list[str], token: str = "") -> Fault:
    contents = "".join(
        f"<Contents><Key>{key}</Key><Size>1</Size><ETag>e</ETag>"
        "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
        for key in keys
    )
    more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    return answered("200 OK", body=f"<ListBucketResult>{contents}{more}</ListBucketResult>")


@pytest.mark.parametrize("fault", [SLOW_DOWN, reset], ids=["503", "reset"])
async def test_a_listing_goes_on_with_the_page_that_failed(
    store: ObstoreStore, proxy: FaultProxy, fault: Fault
) -> None:
    proxy.plan(page(["a/1", "a/2"], "next"))
    proxy.plan(fault)
    proxy.plan(page(["a/3"]))
    assert [info.key async for info in store.objects("a")] == ["a/1", "a/2", "a/3"]
    assert ["token=next" in seen for seen in proxy.seen] == [False, True, True]


async def half_a_page(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n<ListBucketResult>")


@pytest.mark.parametrize(
    "fault", [SLOW_DOWN, reset, half_a_page, hung], ids=["503", "reset", "cut", "hung"]
)
async def test_a_listing_that_is_cut_off_has_no_end(
    hurried: ObstoreStore, proxy: FaultProxy, fault: Fault
) -> None:
    keys = [f"a/{number:03}" for number in range(60)]
    proxy.plan(page(keys, "next"))
    proxy.plan(fault, times=inf)
    listing, found = hurried.objects("a"), []
    with pytest.raises(StoreUnavailable):
        while True:
            found.append((await anext(listing)).key)
    assert found == keys[: len(found)]
    assert found


def uploads_under_way(s3_endpoint: str, s3_url: str) -> int:
    bucket = s3_url.removeprefix("s3://")
    with urllib.request.urlopen(f"{s3_endpoint}/{bucket}?uploads") as answer:
        return len(re.findall("<Upload>", answer.read().decode()))


@pytest.mark.parametrize("fault", [SLOW_DOWN, reset, lost], ids=["503", "reset", "lost"])
@pytest.mark.parametrize("target", ["partNumber=2", "uploadId"], ids=["part", "completion"])
async def test_an_upload_gets_over_a_fault_in_any_of_its_steps(
    store: ObstoreStore,
    sound: ObstoreStore,
    proxy: FaultProxy,
    tmp_path: Path,
    target: str,
    fault: Fault,
) -> None:
    proxy.plan(fault, target=target, method="PUT" if target == "partNumber=2" else "POST")
    await Calls(store, tmp_path).upload()
    assert await sound.get("a/new") == DATA * 4


@pytest.mark.parametrize("fault", [SLOW_DOWN, reset, lost], ids=["503", "reset", "lost"])
@pytest.mark.parametrize("target", ["partNumber=2", "uploadId"], ids=["part", "completion"])
async def test_an_upload_that_fails_leaves_nothing(
    hurried: ObstoreStore,
    sound: ObstoreStore,
    proxy: FaultProxy,
    s3_endpoint: str,
    s3_url: str,
    tmp_path: Path,
    target: str,
    fault: Fault,
) -> None:
    method = "PUT" if target == "partNumber=2" else "POST"
    proxy.plan(fault, times=inf, target=target, method=method)
    with pytest.raises(StoreUnavailable):
        await Calls(hurried, tmp_path).upload()
    assert any(seen.startswith("DELETE") for seen in proxy.seen)
    assert await asyncio.to_thread(uploads_under_way, s3_endpoint, s3_url) == 0
    if not (fault is lost and method == "POST"):
        assert "a/new" not in await objects_of(sound)


async def test_an_upload_that_is_not_known_any_more_begins_anew(
    store: ObstoreStore, sound: ObstoreStore, proxy: FaultProxy, tmp_path: Path
) -> None:
    """A store may forget an upload's id as soon as it is complete, and that reply be lost."""
    proxy.plan(lost, method="POST", target="uploadId")
    proxy.plan(answered("404 Not Found"), method="POST", target="uploadId")
    await Calls(store, tmp_path).upload()
    assert sum(seen.endswith("?uploads=") for seen in proxy.seen) == 2
    assert await sound.get("a/new") == DATA * 4


@pytest.mark.parametrize(("name", "target"), [("upload", "partNumber=2"), ("folders", "")])
async def test_a_part_or_a_page_that_hangs_is_asked_for_again(
    sound: ObstoreStore, proxy: FaultProxy, s3_url: str, tmp_path: Path, name: str, target: str
) -> None:
    store = open_store(s3_url, retry_seconds=60, stall_seconds=0.5)
    proxy.plan(hung, target=target)
    await getattr(Calls(store, tmp_path), name)()
    assert len(proxy.seen) == len(set(proxy.seen)) + 1


async def test_an_upload_that_is_cancelled_leaves_nothing(
    store: ObstoreStore,
    sound: ObstoreStore,
    proxy: FaultProxy,
    s3_endpoint: str,
    s3_url: str,
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_bytes(b"x" * (8 * PART))
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def waiting(exchange: Exchange) -> None:
        begun.set()
        await cancelled.wait()
        await exchange.send(await exchange.reply())

    proxy.plan(waiting, times=4, target="partNumber")
    uploading = asyncio.create_task(store.upload("a/new", tmp_path / "file"))
    await begun.wait()
    uploading.cancel()
    asyncio.get_running_loop().call_soon(cancelled.set)
    with pytest.raises(asyncio.CancelledError):
        await uploading
    assert any(seen.startswith("DELETE") for seen in proxy.seen)
    assert await asyncio.to_thread(uploads_under_way, s3_endpoint, s3_url) == 0
    assert "a/new" not in await objects_of(sound)
