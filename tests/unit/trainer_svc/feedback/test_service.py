"""A dataset is made of feedback by the path of every upload, and every record is accounted for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tailorbird.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    StoreUnavailable,
)
from tailorbird.feedback import (
    Answer,
    Entry,
    FeedbackPage,
    FeedbackRecord,
    FeedbackStore,
    Period,
    Turn,
    feedback_key,
)
from tailorbird.names import AdapterName, DatasetName, FeedbackName
from tailorbird.object_store import open_store
from tailorbird.personal_data.modes import Mode
from tailorbird.records.formats import DatasetFormat
from tests.unit.tailorbird.feedback_values import ADAPTER, NOON, a_name, a_record
from trainer_svc.datasets.dataset import Dataset
from trainer_svc.datasets.store import DatasetStore
from trainer_svc.feedback.lines import Rule
from trainer_svc.feedback.service import FeedbackService, Import, Imported, Wanted

MADE = DatasetName("acme", "made")
ALL = Import(ADAPTER)


class World:
    def __init__(self, folder: Path) -> None:
        self.store = open_store((folder / "store").as_uri())
        self.feedback = FeedbackStore(self.store)
        self.spool = folder / "spool"
        self.datasets = DatasetStore(self.store, self.spool, 2**20, 4096)

    def service(self, **options: Any) -> FeedbackService:
        return FeedbackService(self.feedback, self.datasets, max_record_bytes=4096, **options)

    async def keep(self, number: int, days: int = 0, **fields: Any) -> None:
        fields = {"rating": "good"} | fields
        await self.feedback.create(a_record(number, NOON + days * timedelta(days=1), **fields))

    async def lines(self, dataset: Dataset) -> list[Any]:
        data = await self.store.get(dataset.data_key)
        return [json.loads(line) for line in data.splitlines()]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def one_line() -> AsyncIterator[bytes]:
    yield b'{"text": "a"}'


def asked_of(lines: list[Any]) -> list[str]:
    return [line["messages"][0]["content"].removeprefix("Where is order ")[:-1] for line in lines]


async def test_a_dataset_holds_what_was_corrected_and_what_was_good_oldest_first(
    world: World,
) -> None:
    await world.keep(1, days=1)
    await world.keep(2)
    await world.keep(3, rating="bad", correction=Answer(content="Tomorrow."))
    await world.keep(4, rating="bad")
    await world.keep(5, days=-1, labels={"channel": "chat"})
    await world.keep(6, adapter=AdapterName("acme", "legal"))
    await world.keep(7, messages=(), prompt="Dear")
    dataset, imported = await world.service().import_(MADE, ALL)
    lines = await world.lines(dataset)
    assert asked_of(lines) == ["5", "2", "3", "1"]
    assert lines[0]["metadata"]["channel"] == "chat"
    assert lines[2]["messages"][-1]["content"] == "Tomorrow."
    assert (dataset.name, dataset.format, dataset.record_count) == (str(MADE), "chat", 4)
    assert dataset.report
    assert dataset.report.records == 4
    assert await world.datasets.get(MADE) == dataset
    assert imported == Imported(read=6, imported=4, other=2)


async def test_only_the_period_the_rule_and_the_format_count(world: World) -> None:
    for day in range(4):
        await world.keep(day, days=day)
    await world.keep(8, days=1, messages=(), prompt="Dear")
    await world.keep(9, days=1, correction=Answer(content="Tomorrow."))
    asked = Import(ADAPTER, Period(NOON + timedelta(days=1), NOON + timedelta(days=2)))
    dataset, imported = await world.service().import_(MADE, asked)
    assert sorted(asked_of(await world.lines(dataset))) == ["1", "9"]
    assert (imported.read, imported.other) == (3, 1)
    corrected = Import(ADAPTER, rule=Rule.CORRECTIONS)
    dataset, _ = await world.service().import_(DatasetName("acme", "corrected"), corrected)
    assert asked_of(await world.lines(dataset)) == ["9"]
    prompts = Import(ADAPTER, format=DatasetFormat.PROMPT_COMPLETION)
    dataset, _ = await world.service().import_(DatasetName("acme", "prompts"), prompts)
    assert [line["prompt"] for line in await world.lines(dataset)] == ["Dear"]


async def test_the_same_import_is_the_same_dataset_and_another_is_refused(world: World) -> None:
    await world.keep(1)
    first, _ = await world.service().import_(MADE, ALL)
    again, _ = await world.service().import_(MADE, ALL)
    assert again == first
    await world.keep(2)
    with pytest.raises(AlreadyExists):
        await world.service().import_(MADE, ALL)


async def test_what_cannot_be_read_or_trained_on_is_named_and_what_vanished_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.keep(1)
    await world.keep(2, messages=(Turn(role="user"),))
    await world.store.put(feedback_key(a_name(3)), b"no record")
    await world.keep(4)
    await world.keep(5, version="a version of a later release")
    listed = world.feedback.entries

    async def then_deleted(adapter: AdapterName, day: str) -> list[Entry]:
        entries = await listed(adapter, day)
        await world.feedback.delete(a_name(4))
        return entries

    monkeypatch.setattr(world.feedback, "entries", then_deleted)
    dataset, imported = await world.service().import_(MADE, ALL)
    assert asked_of(await world.lines(dataset)) == ["1"]
    assert (imported.read, imported.imported, imported.vanished) == (5, 1, 1)
    assert imported.unusable_count == 3
    told = dict(imported.unusable)
    assert told[a_name(2)] == "messages[0].content: empty"
    assert "is not a feedback record" in told[a_name(3)]
    assert "its version" in told[a_name(5)]


async def test_no_more_than_a_hundred_are_named(world: World) -> None:
    await world.keep(0)
    for number in range(1, 103):
        await world.store.put(feedback_key(a_name(number)), b"no record")
    _, imported = await world.service().import_(MADE, ALL)
    assert (imported.unusable_count, len(imported.unusable)) == (102, 100)


async def test_where_nothing_is_taken_no_dataset_is_made(world: World) -> None:
    await world.keep(1, rating="bad")
    with pytest.raises(FailedPrecondition) as caught:
        await world.service().import_(MADE, ALL)
    assert caught.value.reason == "NO_FEEDBACK"
    assert "none of 1 records" in caught.value.message
    with pytest.raises(NotFound):
        await world.datasets.get(MADE)


async def test_too_much_is_refused_and_nothing_made(world: World) -> None:
    for number in range(3):
        await world.keep(number)
    await world.service(max_imported=3).import_(MADE, ALL)
    with pytest.raises(FailedPrecondition, match="more than 2 records") as caught:
        await world.service(max_imported=2).import_(DatasetName("acme", "other"), ALL)
    assert caught.value.reason == "TOO_MUCH_FEEDBACK"
    with pytest.raises(NotFound):
        await world.datasets.get(DatasetName("acme", "other"))


async def test_a_dataset_that_grows_too_large_is_refused(world: World, tmp_path: Path) -> None:
    world.datasets = DatasetStore(world.store, tmp_path / "small", 100, 4096)
    await world.keep(1)
    with pytest.raises(InvalidArgument) as caught:
        await world.service().import_(MADE, ALL)
    assert caught.value.reason == "DATASET_TOO_LARGE"


async def test_personal_data_is_treated_as_in_an_upload(world: World) -> None:
    await world.keep(1, answer=Answer(content="Write to jane.roe@web.de"))
    dataset, _ = await world.service().import_(MADE, ALL, Mode.REDACT)
    (line,) = await world.lines(dataset)
    assert line["messages"][-1]["content"] == "Write to <EMAIL>"


async def test_two_imports_go_at_a_time_and_the_others_wait(world: World) -> None:
    await world.keep(1)
    made = await world.datasets.upload(MADE, None, one_line())

    class Held:
        entered = 0
        is_full = asyncio.Event()
        go_on = asyncio.Event()

        async def upload(self, *arguments: Any) -> Dataset:
            self.entered += 1
            if self.entered == 2:
                self.is_full.set()
            await self.go_on.wait()
            return made

    held = Held()
    feedback = FeedbackService(world.feedback, held, max_record_bytes=4096)
    tenants = [DatasetName(tenant, "made") for tenant in ("acme", "globex", "initech")]
    imports = [asyncio.create_task(feedback.import_(name, ALL)) for name in tenants]
    await held.is_full.wait()
    await asyncio.sleep(0)
    assert held.entered == 2
    held.go_on.set()
    await asyncio.gather(*imports)
    assert held.entered == 3


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Wanted(), "abcd"),
        (Wanted(rating="good"), "ac"),
        (Wanted(has_correction=True), "cd"),
        (Wanted(has_correction=False), "ab"),
        (Wanted("bad", has_correction=True), "d"),
    ],
)
async def test_a_listing_has_what_is_wanted(world: World, wanted: Wanted, found: str) -> None:
    right = Answer(content="x")
    for number, (rating, correction) in enumerate(
        [("good", None), ("", None), ("good", right), ("bad", right)]
    ):
        await world.keep(number, rating=rating, correction=correction)
    page = await world.service().list(ADAPTER, Period(), wanted, 10, "")
    assert {record.name for record in page.records} == {
        str(a_name("abcd".index(each))) for each in found
    }
    for record in page.records:
        await world.service().delete(a_name(int(record.name[-1])))
    page = await world.service().list(ADAPTER, Period(), wanted, 10, "")
    assert page.records == []


async def test_a_store_that_fails_while_it_is_read_makes_no_dataset(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.keep(1)

    async def failing(name: FeedbackName) -> FeedbackRecord:
        raise StoreUnavailable("down")

    monkeypatch.setattr(world.feedback, "get", failing)
    with pytest.raises(StoreUnavailable):
        await world.service().import_(MADE, ALL)
    with pytest.raises(NotFound):
        await world.datasets.get(MADE)
    assert not list(world.spool.iterdir())


async def test_a_tenant_that_imports_a_lot_leaves_a_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(name: DatasetName, *_: object) -> Dataset:
        if name.tenant == "acme":
            begun.set()
            await go_on.wait()
        raise NotFound(name)

    monkeypatch.setattr(world.datasets, "upload", slow)
    service = world.service()
    many = [asyncio.create_task(service.import_(MADE, ALL, None)) for _ in range(4)]
    await begun.wait()
    theirs = Import(AdapterName("globex", "voice"))
    async with asyncio.timeout(30):
        with pytest.raises(NotFound, match="globex"):
            await service.import_(DatasetName("globex", "made"), theirs, None)
    assert not any(task.done() for task in many)
    go_on.set()
    assert all(isinstance(e, NotFound) for e in await asyncio.gather(*many, return_exceptions=True))


async def test_a_tenant_that_lists_a_lot_leaves_a_place(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    at_once = 0

    async def slow(adapter: AdapterName, *_: object) -> FeedbackPage:
        nonlocal at_once
        if adapter.tenant == "acme":
            at_once += 1
            begun.set()
            await go_on.wait()
        return FeedbackPage()

    monkeypatch.setattr(world.feedback, "page", slow)
    service = world.service()
    asked = (Period(), Wanted(), 10, "")
    many = [asyncio.create_task(service.list(ADAPTER, *asked)) for _ in range(6)]
    await begun.wait()
    async with asyncio.timeout(30):
        assert await service.list(AdapterName("globex", "voice"), *asked) == FeedbackPage()
    assert at_once == 3
    go_on.set()
    await asyncio.gather(*many)
