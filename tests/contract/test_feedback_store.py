"""Feedback in an object store: a local folder and a real S3 server."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from tailorbird import feedback
from tailorbird.errors import AlreadyExists, DataCorrupt, NotFound
from tailorbird.feedback import (
    MAX_FEEDBACK_BYTES,
    Answer,
    Entry,
    FeedbackPage,
    FeedbackRecord,
    FeedbackStore,
    Found,
    Period,
    Turn,
    feedback_key,
)
from tailorbird.names import AdapterName, FeedbackName, TenantName
from tailorbird.object_store import ObstoreStore
from tests.contract.test_object_store import file_store, s3_store, store
from tests.unit.tailorbird.feedback_values import ADAPTER, NOON, VERSION, a_name, a_record

__all__ = ["file_store", "s3_store", "store"]

ACME = TenantName("acme")
DAY = timedelta(days=1)


@pytest.fixture
def kept(store: ObstoreStore) -> FeedbackStore:
    return FeedbackStore(store)


def anything(_: FeedbackRecord) -> bool:
    return True


async def pages(
    kept: FeedbackStore,
    size: int,
    wanted: Callable[[FeedbackRecord], bool] = anything,
    period: Period | None = None,
) -> list[FeedbackPage]:
    found, after = [], ""
    while True:
        found.append(await kept.page(ADAPTER, period or Period(), size, wanted, after))
        after = found[-1].next_position
        if not after:
            return found


def names(found: list[FeedbackPage]) -> list[str]:
    return [record.name for page in found for record in page.records]


async def test_a_record_lies_under_its_tenant_and_day(
    kept: FeedbackStore, store: ObstoreStore
) -> None:
    record = a_record(7, correction=Answer(content="Tomorrow."), labels={"channel": "chat"})
    assert await kept.create(record) == record
    key = f"tenants/acme/feedback/20261123/support/{7:032x}.json"
    assert [info.key async for info in store.objects("tenants")] == [key]
    assert await kept.get(a_name(7)) == record


async def test_the_same_again_is_the_same_record(kept: FeedbackStore) -> None:
    first = await kept.create(a_record())
    again = a_record(subject="somebody else", create_time=NOON + timedelta(hours=1))
    assert await kept.create(again) == first
    with pytest.raises(AlreadyExists) as caught:
        await kept.create(a_record(rating="good"))
    assert caught.value.reason == "FEEDBACK_EXISTS"
    assert await kept.get(a_name()) == first


async def test_what_a_newer_release_adds_is_kept_and_its_own_schema_is_not_read(
    kept: FeedbackStore, store: ObstoreStore
) -> None:
    stored = json.loads(a_record().model_dump_json()) | {"sentiment": 0.5}
    stored["messages"][0]["language"] = stored["answer"]["language"] = "en"
    await store.put(feedback_key(a_name()), json.dumps(stored).encode())
    found = await kept.get(a_name())
    assert (found.model_extra or {})["sentiment"] == 0.5
    assert found.says_the_same_as(a_record())
    assert not found.says_the_same_as(a_record(messages=(Turn(role="user", content="When?"),)))
    assert await kept.create(a_record()) == found
    await store.put(feedback_key(a_name()), json.dumps(stored | {"schema_version": 2}).encode())
    with pytest.raises(DataCorrupt):
        await kept.get(a_name())


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"\0",
        b"[]",
        b'{"name": "secret@web.de"}',
        b'{"schema_version": 1, "name": "' + b"x" * 100 + b'"}',
        a_record(2).model_dump_json().encode(),
        a_record(redactions={"email": 1})
        .model_dump_json()
        .encode()
        .replace(b":1}", b":9999999999}"),
        a_record().model_dump_json().encode().replace(b"Where", rb"\ud800"),
        b" " * (MAX_FEEDBACK_BYTES + 1),
        a_record(version="20260101T000000-job-1").model_dump_json().encode(),
        a_record(version=str(VERSION).replace("acme", "globex")).model_dump_json().encode(),
        a_record(version=str(VERSION).replace("support", "legal")).model_dump_json().encode(),
    ],
    ids="empty nul list fields short another-s-name count surrogate long version another-tenant-s"
    " another-adapter-s".split(),
)
async def test_what_is_no_record_is_named_and_can_be_deleted(
    kept: FeedbackStore, store: ObstoreStore, stored: bytes
) -> None:
    await kept.create(a_record(2))
    await store.put(feedback_key(a_name()), stored)
    with pytest.raises(DataCorrupt) as caught:
        await kept.get(a_name())
    assert "secret" not in str(caught.value)
    found = await pages(kept, 10)
    assert [name for page in found for name in page.unreadable] == [str(a_name())]
    assert names(found) == [str(a_name(2))]
    await kept.delete(a_name())
    with pytest.raises(NotFound) as gone:
        await kept.delete(a_name())
    assert gone.value.reason == "FEEDBACK_NOT_FOUND"
    with pytest.raises(NotFound):
        await kept.get(a_name())


async def test_pages_go_from_the_newest_day_to_the_oldest_and_miss_none(
    kept: FeedbackStore,
) -> None:
    for number, days in enumerate((2, 0, 1, 0, 5, 0)):
        await kept.create(a_record(number, NOON - days * DAY))
    await kept.create(a_record(9, adapter=AdapterName("acme", "legal")))
    await kept.create(a_record(9, adapter=AdapterName("globex", "support")))
    whole = names(await pages(kept, 50))
    assert [FeedbackName.parse(name).day for name in whole] == sorted(
        (f"202611{23 - days}" for days in (2, 0, 1, 0, 5, 0)), reverse=True
    )
    assert len(set(whole)) == 6
    for size in (1, 2, 3, 6):
        found = await pages(kept, size)
        assert names(found) == whole
        assert all(len(page.records) <= size for page in found)


async def test_only_what_is_wanted_of_the_period_is_on_a_page(kept: FeedbackStore) -> None:
    for number in range(6):
        rating = "good" if number % 2 else "bad"
        await kept.create(a_record(number, NOON + number * timedelta(hours=6), rating=rating))
    period = Period(NOON + timedelta(hours=6), NOON + timedelta(hours=24))
    assert sorted(names(await pages(kept, 10, period=period))) == [
        str(a_name(number, NOON + number * timedelta(hours=6))) for number in (1, 2, 3)
    ]
    good = await pages(kept, 1, lambda record: record.rating == "good", period)
    assert {record.rating for page in good for record in page.records} == {"good"}
    assert len(names(good)) == 2


async def test_what_vanishes_between_listing_and_reading_is_neither(
    kept: FeedbackStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        await kept.create(a_record(number))
    listed = kept.newest

    async def then_deleted(adapter: AdapterName, day: str, after: str) -> list[Entry]:
        entries = await listed(adapter, day, after)
        await kept.delete(a_name(1))
        return entries

    monkeypatch.setattr(kept, "newest", then_deleted)
    (page,) = await pages(kept, 10)
    assert sorted(names([page])) == [str(a_name(0)), str(a_name(2))]
    assert not page.unreadable


async def test_a_page_ends_by_its_bytes_and_by_what_was_looked_at(
    kept: FeedbackStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        await kept.create(a_record(number, prompt="x" * 1000))
    monkeypatch.setattr(feedback, "_MAX_PAGE_BYTES", 3000)
    found = await pages(kept, 10)
    assert [len(page.records) for page in found] == [2, 2]
    monkeypatch.setattr(feedback, "_MAX_PAGE_BYTES", 10)
    assert [len(page.records) for page in await pages(kept, 10)] == [1, 1, 1, 1]
    monkeypatch.setattr(feedback, "_MAX_LOOKS", 3)
    found = await pages(kept, 10, lambda _: False)
    assert [bool(page.next_position) for page in found] == [True, False]


async def test_a_day_with_more_than_a_page_looks_at_is_listed_whole(
    kept: FeedbackStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback, "_MAX_LOOKS", 2)
    for number in range(9):
        await kept.create(a_record(number))
    entries = await kept.entries(ADAPTER, "20261123")
    assert len(await kept.newest(ADAPTER, "20261123", "")) == 3
    found = await pages(kept, 10)
    assert names(found) == [str(entry.name) for entry in reversed(entries)]
    assert len(found) == 5


async def test_a_page_looks_at_a_bounded_number_of_days(
    kept: FeedbackStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback, "_MAX_DAYS", 2)
    legal = AdapterName("acme", "legal")
    for days in range(5):
        await kept.create(a_record(days, NOON - days * DAY, legal))
    await kept.create(a_record(1, NOON - 4 * DAY))
    found = await pages(kept, 10)
    assert len(found) > 2
    assert names(found) == [str(a_name(1, NOON - 4 * DAY))]


async def test_what_is_no_record_s_key_is_passed_over(
    kept: FeedbackStore, store: ObstoreStore
) -> None:
    await kept.create(a_record())
    folder = "tenants/acme/feedback"
    for key in (
        "20261123/support/notes.txt",
        f"20261123/support/{2:032x}.json.part",
        f"20261123/support/in/{3:032x}.json",
        f"archive/support/{4:032x}.json",
    ):
        await store.put(f"{folder}/{key}", b"{}")
    assert [entry.name for entry in await kept.entries(ADAPTER, "20261123")] == [a_name()]
    (page,) = await pages(kept, 10)
    assert names([page]) == [str(a_name())]
    assert not page.unreadable


async def test_a_day_s_records_of_a_tenant_are_counted(kept: FeedbackStore) -> None:
    assert await kept.count(ACME, "20261123") == 0
    await kept.create(a_record(1))
    await kept.create(a_record(2, adapter=AdapterName("acme", "legal")))
    await kept.create(a_record(3, NOON - DAY))
    await kept.create(a_record(4, adapter=AdapterName("acme-two", "support")))
    assert await kept.count(ACME, "20261123") == 2


async def test_entries_are_read_in_their_order(kept: FeedbackStore) -> None:
    for number in range(40):
        await kept.create(a_record(number))
    entries = await kept.entries(ADAPTER, "20261123")
    found: list[Found] = [each async for each in kept.read(entries)]
    assert [each.entry for each in found] == entries
    assert [each.record.name for each in found if each.record] == [str(e.name) for e in entries]


def test_a_period_holds_its_beginning_and_not_its_end() -> None:
    period = Period(NOON, NOON + DAY)
    assert NOON in period
    assert NOON + DAY not in period
    assert NOON - timedelta(seconds=1) not in period
    assert [
        day for day in ("20261122", "20261123", "20261124", "20261125") if period.has_day(day)
    ] == [
        "20261123",
        "20261124",
    ]
    assert datetime(1990, 1, 1, tzinfo=UTC) in Period()
    assert Period().has_day("19900101")
    assert Period(datetime(999, 1, 1, tzinfo=UTC)).has_day("20261123")
    assert not Period(until=datetime(999, 1, 1, tzinfo=UTC)).has_day("20261123")
