"""What becomes of each call where the store, or the network before it, fails half-way.

A real S3 server behind a proxy that refuses, breaks off, loses replies and hangs.
"""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections.abc import Awaitable
from math import inf
from pathlib import Path
from typing import Any

import pytest
from google.rpc import error_details_pb2

from tailorbird.errors import NotFound, StoreUnavailable
from tailorbird.object_store import ObjectExists, ObstoreStore, open_store
from tailorbird.rpc.status import to_status
from tests.fault_proxy import Exchange, Fault, FaultProxy, answered, cut, delayed, hung, lost, reset

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


ALL = cases(
    (READS + LISTS + WRITES, FAULTS),
    (READS + LISTS + ["delete", "upload"], BREAKS),
    ([*READS, *LISTS, "put", "upload", "delete"], {"lost": lost}),
)


def objects_of(sound: ObstoreStore) -> Awaitable[dict[str, int]]:
    async def found() -> dict[str, int]:
        return {info.key: info.size async for info in sound.objects("a")}

    return found()


def uploads_under_way(s3_endpoint: str, s3_url: str) -> int:
    bucket = s3_url.removeprefix("s3://")
    with urllib.request.urlopen(f"{s3_endpoint}/{bucket}?uploads") as answer:
        return len(re.findall("<Upload>", answer.read().decode()))


@pytest.mark.parametrize(("name", "fault"), ALL)
async def test_one_fault_is_got_over(
    store: ObstoreStore, proxy: FaultProxy, tmp_path: Path, name: str, fault: Fault
) -> None:
    proxy.plan(fault)
    await getattr(Calls(store, tmp_path), name)()
    # An upload goes on by its parts.
    assert len(proxy.seen) == 2 or name == "upload"
    assert proxy.seen[0] == proxy.seen[1]


@pytest.mark.parametrize(("name", "fault"), ALL)
async def test_a_store_that_stays_bad_is_unavailable_after_a_few_tries(
    hurried: ObstoreStore,
    sound: ObstoreStore,
    proxy: FaultProxy,
    tmp_path: Path,
    name: str,
    fault: Fault,
) -> None:
    proxy.plan(fault, times=inf)
    with pytest.raises(StoreUnavailable) as caught:
        await getattr(Calls(hurried, tmp_path), name)()
    assert 1 <= len(proxy.seen) <= 12
    assert len(proxy.seen) >= 2 or name in {"upload", *LISTS}
    assert caught.value.reason == "STORE_UNAVAILABLE"
    assert caught.value.metadata["key"] in {"", "a", "a/b", "a/new"}
    assert not (tmp_path / "copy").exists()
    assert not (tmp_path / "copy.part").exists()
    if fault is not lost:
        assert "a/new" not in await objects_of(sound)


async def test_callers_are_told_when_to_come_again(
    hurried: ObstoreStore, proxy: FaultProxy
) -> None:
    proxy.plan(SLOW_DOWN, times=inf)
    with pytest.raises(StoreUnavailable, match="503 Service Unavailable") as caught:
        await hurried.get("a/b")
    told = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(told) for detail in to_status(caught.value).details)
    assert told.retry_delay.seconds == 5


@pytest.mark.parametrize(
    ("name", "fault"),
    cases(
        ([*READS, "create", "put", "delete"], {"at once": hung}),
        ([*READS, "delete"], {"in the body": cut(7, hung)}),
    ),
)
async def test_a_store_that_hangs_is_asked_once_more_and_given_up(
    hurried: ObstoreStore, proxy: FaultProxy, tmp_path: Path, name: str, fault: Fault
) -> None:
    proxy.plan(fault, times=inf)
    with pytest.raises(StoreUnavailable, match="no answer in time"):
        await getattr(Calls(hurried, tmp_path), name)()
    assert 2 <= len(proxy.seen) <= 3


@pytest.mark.parametrize("fault", [SLOW_DOWN, reset, hung], ids=["503", "reset", "hung"])
@pytest.mark.parametrize(
    ("url", "name"),
    [
        # What is written there is signed, whatever obstore is told, and nobody signs here.
        ("gs://bucket/folder", "get"),
        ("az://container/folder", "get"),
        ("az://container/folder", "create"),
        ("az://container/folder", "put"),
    ],
)
async def test_stores_of_other_clouds_are_asked_as_often(
    proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    url: str,
    fault: Fault,
    name: str,
) -> None:
    for key, value in {
        "GOOGLE_BASE_URL": proxy.url,
        "GOOGLE_SKIP_SIGNATURE": "true",
        "GOOGLE_ALLOW_HTTP": "true",
        "AZURE_STORAGE_ACCOUNT_NAME": "account",
        "AZURE_STORAGE_ENDPOINT": proxy.url,
        "AZURE_SKIP_SIGNATURE": "true",
        "AZURE_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(key, value)
    proxy.plan(fault, times=inf)
    with pytest.raises(StoreUnavailable):
        await getattr(Calls(open_store(url, 0.5, 0.5), tmp_path), name)()
    assert 2 <= len(proxy.seen) <= 6
    assert all("folder" in seen for seen in proxy.seen)


@pytest.mark.parametrize("name", [*LISTS, "upload"])
async def test_a_store_that_hangs_in_parts_and_pages_is_given_up(
    hurried: ObstoreStore, proxy: FaultProxy, tmp_path: Path, name: str
) -> None:
    proxy.plan(hung, times=inf)
    with pytest.raises(StoreUnavailable):
        await getattr(Calls(hurried, tmp_path), name)()
    assert len(proxy.seen) <= 2


@pytest.mark.parametrize("name", READS + LISTS + WRITES)
async def test_a_store_that_is_slow_is_waited_for(
    store: ObstoreStore, proxy: FaultProxy, tmp_path: Path, name: str
) -> None:
    proxy.plan(delayed(0.5))
    await getattr(Calls(store, tmp_path), name)()
    assert len(proxy.seen) == len(set(proxy.seen))


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


async def test_an_object_that_went_before_it_was_read_is_not_found(
    store: ObstoreStore, sound: ObstoreStore, proxy: FaultProxy, tmp_path: Path
) -> None:
    await sound.delete("a/b")
    proxy.plan(SLOW_DOWN)
    with pytest.raises(NotFound):
        await store.download("a/b", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


async def test_a_create_whose_reply_is_lost_finds_its_own_object(
    store: ObstoreStore, sound: ObstoreStore, proxy: FaultProxy
) -> None:
    proxy.plan(lost)
    with pytest.raises(ObjectExists):
        await store.create("a/new", b"mine")
    assert await sound.get("a/new") == b"mine"


CONFLICT = answered("409 Conflict", body="<Error><Code>ConditionalRequestConflict</Code></Error>")


async def test_a_create_that_another_writer_was_in_the_way_of_is_tried_again(
    store: ObstoreStore, sound: ObstoreStore, proxy: FaultProxy
) -> None:
    proxy.plan(CONFLICT, times=2, method="PUT")
    await store.create("a/new", b"mine")
    assert await sound.get("a/new") == b"mine"
    assert [seen.split()[0] for seen in proxy.seen] == ["PUT", "HEAD", "PUT", "HEAD", "PUT"]


async def test_a_create_that_is_refused_for_an_object_that_is_there_is_told_so(
    store: ObstoreStore, proxy: FaultProxy
) -> None:
    proxy.plan(CONFLICT, method="PUT")
    with pytest.raises(ObjectExists):
        await store.create("a/b", b"mine")


@pytest.mark.parametrize("status", ["403 Forbidden", "400 Bad Request"])
@pytest.mark.parametrize("name", READS + LISTS + WRITES)
async def test_what_is_wrong_is_not_tried_again(
    store: ObstoreStore, proxy: FaultProxy, tmp_path: Path, name: str, status: str
) -> None:
    proxy.plan(answered(status), times=inf)
    with pytest.raises(StoreUnavailable, match=status):
        await getattr(Calls(store, tmp_path), name)()
    assert len(proxy.seen) == 1


async def test_what_cannot_be_asked_at_all_is_not_tried_again(
    store: ObstoreStore, proxy: FaultProxy, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that would be asked again has not answered when the test is over."""
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    plain = open_store(s3_url, retry_seconds=300)
    async with asyncio.timeout(60):
        with pytest.raises(StoreUnavailable, match="connection failed"):
            await plain.get("a/b")
    assert proxy.seen == []


@pytest.mark.parametrize("status", ["408 Request Timeout", "429 Too Many Requests"])
async def test_what_came_at_the_wrong_time_is_tried_again(
    store: ObstoreStore, proxy: FaultProxy, status: str
) -> None:
    proxy.plan(answered(status))
    assert await store.get("a/b") == DATA
    assert len(proxy.seen) == 2


@pytest.mark.parametrize("name", ["create", "put"])
async def test_a_server_whose_disk_is_full_is_no_server_that_is_down(
    store: ObstoreStore, proxy: FaultProxy, tmp_path: Path, name: str
) -> None:
    proxy.plan(answered("507 Insufficient Storage"), times=inf)
    with pytest.raises(StoreUnavailable, match="507 Insufficient Storage") as caught:
        await getattr(Calls(store, tmp_path), name)()
    assert caught.value.reason == "DISK_FULL"
    assert len(proxy.seen) == 1


@pytest.mark.parametrize("name", ["create", "put", "upload"])
async def test_a_bucket_that_is_gone_is_no_object_that_is(
    proxy: FaultProxy, tmp_path: Path, name: str
) -> None:
    store = open_store("s3://no-such-bucket", retry_seconds=0.5)
    with pytest.raises(StoreUnavailable):
        await getattr(Calls(store, tmp_path), name)()


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
