"""Uploads in which personal data is counted, replaced or refused."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Generator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tailorbird.errors import AlreadyExists, FailedPrecondition, InvalidArgument, InvalidRecords
from tailorbird.names import DatasetName
from tailorbird.object_store import ObstoreStore, open_store
from tailorbird.personal_data.loading import load_scanner, scan_options
from tailorbird.personal_data.modes import Mode
from tailorbird.personal_data.options import ScanOptions
from tailorbird.personal_data.scanner import Scanner
from tailorbird.pieces import drained
from tailorbird.records.formats import parse_record
from trainer_svc.datasets import personal_data
from trainer_svc.datasets.dataset import Dataset
from trainer_svc.datasets.personal_data import PersonalDataPolicy, PersonalDataScan
from trainer_svc.datasets.store import DatasetStore

NAME = DatasetName("acme", "chats")
PLAIN = b'{"prompt":"a",   "completion": "b\\u00e9"}'
PLANTED = ("jane.roe@web.de", "4111 1111 1111 1111", "1984-05-03", "(415) 555-2671")


def chat(**further: Any) -> bytes:
    record = {
        "messages": [
            {"role": "user", "content": f"I am {PLANTED[0]}, card {PLANTED[1]}"},
            {"role": "assistant", "content": f"Thanks, {PLANTED[0]}!"},
        ],
        **further,
    }
    return json.dumps(record).encode()


@pytest.fixture(scope="module")
def scanner() -> Scanner:
    return load_scanner(scan_options())


@pytest.fixture
def store(tmp_path: Path) -> ObstoreStore:
    return open_store((tmp_path / "store").as_uri())


@pytest.fixture
def datasets(store: ObstoreStore, tmp_path: Path, scanner: Scanner) -> DatasetStore:
    return with_least(Mode.OFF, store, tmp_path, scanner)


def with_least(
    least: Mode, store: ObstoreStore, folder: Path, scanner: Scanner, limit: int = 2**20
) -> DatasetStore:
    policy = PersonalDataPolicy(least, lambda: scanner)
    return DatasetStore(store, folder / "spool", 2**20, limit, policy)


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def stored(store: ObstoreStore, dataset: Dataset) -> bytes:
    data = await store.get(dataset.data_key)
    assert hashlib.sha256(data).hexdigest() == dataset.sha256
    assert len(data) == dataset.size_bytes
    return data


@pytest.mark.parametrize("mode", [Mode.SUBSTITUTE, Mode.REDACT])
async def test_what_is_stored_holds_none_of_it(
    datasets: DatasetStore, store: ObstoreStore, mode: Mode
) -> None:
    metadata = {"dob": PLANTED[2], "n": 7, "kind": "chat"}
    source = chat(metadata=metadata, ours={"phones": [PLANTED[3]]}) + b"\r\n\n" + chat()
    with capture_logs() as logs:
        dataset = await datasets.upload(
            NAME, None, chunks(source[:40], source[40:]), personal_data=mode
        )
    data = await stored(store, dataset)
    for planted in PLANTED:
        assert planted.encode() not in data
        assert planted not in dataset.model_dump_json() + repr(dataset) + repr(logs)
    first, blank, second = data.split(b"\n")
    assert first.endswith(b"\r")
    assert blank == b""
    record = json.loads(first)
    assert record["metadata"]["n"] == 7
    assert record["metadata"]["kind"] == "chat"
    if mode is Mode.REDACT:
        assert record["messages"][0]["content"] == "I am <EMAIL>, card <CREDIT_CARD>"
        assert record["metadata"]["dob"] == "<DATE_OF_BIRTH>"
        assert record["ours"]["phones"] == ["<PHONE>"]
    else:
        address = record["messages"][0]["content"].split()[2].rstrip(",")
        assert address.partition("@")[2] in ("example.com", "example.org", "example.net")
        assert record["messages"][1]["content"] == f"Thanks, {address}!"
        assert address not in json.loads(second)["messages"][0]["content"]
    assert dataset.source_sha256 == hashlib.sha256(source).hexdigest()
    report = dataset.personal_data
    assert report is not None
    assert (report.mode, report.records) == (mode, 2)
    assert report.counts == {"credit_card": 2, "date_of_birth": 1, "email": 4, "phone": 1}
    assert report.lines["email"] == (1, 3)
    assert report.lines["phone"] == (1,)
    assert await datasets.get(NAME) == dataset


async def test_records_without_findings_keep_their_bytes(
    datasets: DatasetStore, store: ObstoreStore
) -> None:
    source = PLAIN + b"\n \n" + PLAIN + b"  \n"
    dataset = await datasets.upload(NAME, len(source), chunks(source), personal_data=Mode.REDACT)
    assert await stored(store, dataset) == source
    assert dataset.sha256 == dataset.source_sha256
    assert dataset.personal_data is not None
    assert dataset.personal_data.counts == {}


async def test_scanning_counts_and_stores_the_bytes(
    datasets: DatasetStore, store: ObstoreStore
) -> None:
    source = chat().replace(b'": ', b'" :  ')
    dataset = await datasets.upload(NAME, None, chunks(source), personal_data=Mode.SCAN)
    assert await stored(store, dataset) == source
    assert dataset.personal_data is not None
    assert dataset.personal_data.counts == {"credit_card": 1, "email": 2}


async def test_of_each_kind_the_first_hundred_lines_are_told(datasets: DatasetStore) -> None:
    dataset = await datasets.upload(
        NAME, None, chunks((chat() + b"\n") * 120), personal_data=Mode.SCAN
    )
    assert dataset.personal_data is not None
    assert dataset.personal_data.records == 120
    assert dataset.personal_data.lines["email"] == tuple(range(1, 101))


async def test_refusing_tells_lines_and_kinds_and_stores_nothing(
    datasets: DatasetStore, store: ObstoreStore
) -> None:
    source = b"\n".join([b"", *[chat()] * 7])
    with pytest.raises(InvalidArgument) as told:
        await datasets.upload(NAME, None, chunks(source), personal_data=Mode.REFUSE)
    assert told.value.reason == "PERSONAL_DATA_FOUND"
    assert told.value.description == (
        "personal data in 7 records: email 14× (lines 2, 3, 4, 5, 6, …);"
        " credit_card 7× (lines 2, 3, 4, 5, 6, …)"
    )
    for planted in PLANTED:
        assert planted not in repr(told.value) + str(told.value.metadata)
    assert [info.key async for info in store.objects("tenants")] == []
    dataset = await datasets.upload(NAME, None, chunks(PLAIN), personal_data=Mode.REFUSE)
    assert await stored(store, dataset) == PLAIN


async def test_a_refusal_of_many_kinds_is_cut(store: ObstoreStore, tmp_path: Path) -> None:
    scanner = load_scanner(
        ScanOptions(
            kinds=("email",), patterns={f"kind_{at:02}_{'x' * 30}": f"v{at}" for at in range(30)}
        )
    )
    record = json.dumps({"prompt": " ".join(f"v{at}" for at in range(30)), "completion": "b"})
    refusing = with_least(Mode.REFUSE, store, tmp_path, scanner)
    with pytest.raises(InvalidArgument) as told:
        await refusing.upload(NAME, None, chunks(record.encode()))
    assert told.value.description.endswith("; and more")
    assert len(told.value.description.encode()) < 512


@pytest.mark.parametrize("mode", [*Mode])
async def test_the_same_upload_again_returns_the_dataset(
    datasets: DatasetStore, mode: Mode
) -> None:
    source = chat() if mode is not Mode.REFUSE else PLAIN
    first = await datasets.upload(NAME, None, chunks(source), personal_data=mode)
    assert await datasets.upload(NAME, None, chunks(source), personal_data=mode) == first


async def test_the_same_upload_is_known_when_the_rules_have_changed(
    datasets: DatasetStore, store: ObstoreStore, tmp_path: Path
) -> None:
    first = await datasets.upload(NAME, None, chunks(chat()), personal_data=Mode.REDACT)
    later = with_least(Mode.REDACT, store, tmp_path, load_scanner(scan_options(kinds=("email",))))
    assert await later.upload(NAME, None, chunks(chat())) == first


async def test_another_mode_that_stores_other_bytes_is_another_upload(
    datasets: DatasetStore, store: ObstoreStore
) -> None:
    raw = await datasets.upload(NAME, None, chunks(chat()), personal_data=Mode.OFF)
    assert await datasets.upload(NAME, None, chunks(chat()), personal_data=Mode.SCAN) == raw
    with pytest.raises(AlreadyExists, match="personal data: off"):
        await datasets.upload(NAME, None, chunks(chat()), personal_data=Mode.REDACT)
    assert await stored(store, raw) == chat()


async def test_two_uploads_at_once_are_one(datasets: DatasetStore, store: ObstoreStore) -> None:
    both = await asyncio.gather(
        *(
            datasets.upload(NAME, None, chunks(chat()), personal_data=Mode.SUBSTITUTE)
            for _ in range(2)
        )
    )
    assert both[0].sha256 == both[1].sha256
    await stored(store, both[0])


async def test_what_an_earlier_release_stored_is_known_again(
    datasets: DatasetStore, store: ObstoreStore
) -> None:
    new = await datasets.upload(NAME, None, chunks(PLAIN))
    old = new.model_dump(mode="json", exclude={"source_sha256", "personal_data"})
    await store.delete(f"{NAME}/meta.json")
    await store.create(f"{NAME}/meta.json", json.dumps(old).encode())
    again = await datasets.upload(NAME, None, chunks(PLAIN))
    assert (again.sha256, again.source_sha256) == (new.sha256, "")
    with pytest.raises(AlreadyExists):
        await datasets.upload(NAME, None, chunks(PLAIN + b"\n"))


async def test_the_operator_s_mode_is_the_least(
    store: ObstoreStore, tmp_path: Path, scanner: Scanner
) -> None:
    redacting = with_least(Mode.REDACT, store, tmp_path, scanner)
    for asked in (Mode.OFF, Mode.SCAN):
        with pytest.raises(InvalidArgument, match=f"{asked} is less than redact") as told:
            await redacting.upload(NAME, None, chunks(chat()), personal_data=asked)
        assert told.value.field == "header.personal_data"
        assert told.value.reason == "PERSONAL_DATA_MODE_TOO_WEAK"
    dataset = await redacting.upload(NAME, None, chunks(chat()))
    assert b"<EMAIL>" in await stored(store, dataset)
    with pytest.raises(InvalidArgument, match="personal data in 1 records"):
        await redacting.upload(
            DatasetName("acme", "b"), None, chunks(chat()), personal_data=Mode.REFUSE
        )
    other = await redacting.upload(
        DatasetName("acme", "c"), None, chunks(chat()), personal_data=Mode.SUBSTITUTE
    )
    assert b"@example." in await stored(store, other)


async def test_a_scanner_is_made_once_and_only_when_it_is_needed(
    store: ObstoreStore, tmp_path: Path, scanner: Scanner
) -> None:
    made: list[int] = []

    def make() -> Scanner:
        made.append(1)
        return scanner

    policy = PersonalDataPolicy(Mode.OFF, make)
    policy.load()
    datasets = DatasetStore(store, tmp_path / "spool", 2**20, 2**20, policy)
    await datasets.upload(NAME, None, chunks(PLAIN))
    assert made == []
    for name in ("b", "c"):
        await datasets.upload(
            DatasetName("acme", name), None, chunks(PLAIN), personal_data=Mode.SCAN
        )
    assert made == [1]
    PersonalDataPolicy(Mode.SCAN, make).load()
    assert made == [1, 1]


async def test_a_pattern_that_explodes_fails_the_upload_with_its_line(
    store: ObstoreStore, tmp_path: Path
) -> None:
    scanner = load_scanner(
        ScanOptions(kinds=("iban",), patterns={"ticket": "(a|aa)+$"}, pattern_seconds=0.05)
    )
    record = json.dumps({"prompt": "a" * 60 + "b", "completion": "b"}).encode()
    scanning = with_least(Mode.SCAN, store, tmp_path, scanner)
    with pytest.raises(FailedPrecondition, match="line 2: the pattern for ticket") as told:
        await scanning.upload(NAME, None, chunks(PLAIN + b"\n" + record))
    assert told.value.reason == "PATTERN_TIMED_OUT"
    assert told.value.metadata["kind"] == "ticket"
    assert [info.key async for info in store.objects("tenants")] == []


@pytest.mark.parametrize("mode", [Mode.SUBSTITUTE, Mode.REDACT, Mode.REFUSE])
async def test_what_is_not_read_is_not_stored(
    datasets: DatasetStore, store: ObstoreStore, mode: Mode
) -> None:
    hidden = b'{"prompt": "a", "completion": "b", "x": {"y": "a@web.de", "y": 1}}'
    dataset = await datasets.upload(NAME, None, chunks(hidden + b"\r\n"), personal_data=mode)
    assert await stored(store, dataset) == (
        b'{"prompt": "a", "completion": "b", "x": {"y": 1}}\r\n'
    )
    assert dataset.personal_data is not None
    assert dataset.personal_data.counts == {}


async def test_what_is_only_counted_is_stored_as_it_came(
    datasets: DatasetStore, store: ObstoreStore
) -> None:
    twice = b'{"text": "a@web.de", "text": "b"}'
    dataset = await datasets.upload(NAME, None, chunks(twice), personal_data=Mode.SCAN)
    assert await stored(store, dataset) == twice


async def test_a_tenant_s_upload_does_not_wait_for_another_s_record(
    store: ObstoreStore, tmp_path: Path, scanner: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(personal_data, "_TURN_SECONDS", 0.0)
    ended: list[str] = []
    datasets = with_least(Mode.SCAN, store, tmp_path, scanner)

    async def upload(tenant: str, data: bytes) -> None:
        await datasets.upload(DatasetName(tenant, "chats"), None, chunks(data))
        ended.append(tenant)

    numbers = " ".join(f"415-555-{number:04}" for number in range(3000))
    slow = json.dumps({"text": numbers}).encode()
    async with asyncio.TaskGroup() as group:
        group.create_task(upload("acme", slow))
        group.create_task(upload("acme", slow))
        await asyncio.sleep(0)
        group.create_task(upload("globex", PLAIN))
    assert ended[0] == "globex"


async def test_an_upload_that_is_given_up_is_scanned_no_more(
    store: ObstoreStore, tmp_path: Path, scanner: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(personal_data, "_TURN_SECONDS", 0.0)
    policy = PersonalDataPolicy(Mode.SCAN, lambda: scanner)
    pieces, begun = 0, asyncio.Event()
    loop = asyncio.get_running_loop()

    def endless() -> Generator[None, None, None]:
        nonlocal pieces
        while True:
            pieces += 1
            loop.call_soon_threadsafe(begun.set)
            yield

    given_up = asyncio.create_task(policy.run("acme", endless()))
    await begun.wait()
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up

    def three() -> Generator[None, None, int]:
        yield
        yield
        return 3

    assert await policy.run("globex", three()) == 3
    before = pieces
    assert await policy.run("globex", three()) == 3
    assert pieces == before


async def test_a_bad_line_is_told_as_ever(
    datasets: DatasetStore,
) -> None:
    with pytest.raises(InvalidRecords, match="line 2: not JSON"):
        await datasets.upload(NAME, None, chunks(PLAIN + b"\n{"), personal_data=Mode.REDACT)


def calling(function: dict[str, str]) -> bytes:
    call = {"id": "a", "type": "function", "function": function}
    asked = {"role": "user", "content": "Call me."}
    messages = [asked, {"role": "assistant", "tool_calls": [call]}]
    return json.dumps({"messages": messages}).encode()


@pytest.mark.parametrize("mode", [Mode.REDACT, Mode.SUBSTITUTE])
def test_what_a_tool_is_called_with_stays_an_object(mode: Mode) -> None:
    arguments = {"phone": 4155552671, "card": 4111111111111111, "order": 17}
    function = {"name": "call", "arguments": json.dumps(arguments)}
    line = calling(function)
    scan = PersonalDataScan(load_scanner(scan_options()), mode, "key")
    stored = drained(scan.read(1, parse_record(1, line)[1], line))
    _, kept = parse_record(1, stored)
    found = json.loads(kept["messages"][1]["tool_calls"][0]["function"]["arguments"])
    assert found["order"] == 17
    assert str(4155552671) not in str(found)
    assert str(4111111111111111) not in str(found)


def test_what_arguments_have_unread_is_not_stored() -> None:
    function = {"name": "call", "arguments": '{"to": "a@web.de", "to": "b"}'}
    line = calling(function)
    for mode in (Mode.REDACT, Mode.SUBSTITUTE, Mode.REFUSE):
        scan = PersonalDataScan(load_scanner(scan_options()), mode, "key")
        assert b"web.de" not in drained(scan.read(1, parse_record(1, line)[1], line))
    scan = PersonalDataScan(load_scanner(scan_options()), Mode.SCAN, "key")
    assert drained(scan.read(1, parse_record(1, line)[1], line)) == line
