"""What becomes of each call where the store, or the network before it, fails half-way."""

from __future__ import annotations

import asyncio
from math import inf
from pathlib import Path

import pytest
from google.rpc import error_details_pb2

from tailorbird.errors import NotFound, StoreUnavailable
from tailorbird.object_store import ObjectExists, ObstoreStore, open_store
from tailorbird.rpc.status import to_status
from tests.contract.store_calls import (
    BREAKS,
    DATA,
    FAULTS,
    LISTS,
    READS,
    SLOW_DOWN,
    WRITES,
    Calls,
    cases,
    hurried,
    objects_of,
    sound,
    store,
)
from tests.fault_proxy import Fault, FaultProxy, answered, cut, delayed, hung, lost, reset

__all__ = ["hurried", "sound", "store"]

ALL = cases(
    (READS + LISTS + WRITES, FAULTS),
    (READS + LISTS + ["delete", "upload"], BREAKS),
    ([*READS, *LISTS, "put", "upload", "delete"], {"lost": lost}),
)


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


@pytest.mark.parametrize(
    "name", [*(pytest.param(each, marks=pytest.mark.long) for each in LISTS), "upload"]
)
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
