"""Uploads: whole or not at all."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import tempfile
import threading
from codecs import BOM_UTF8
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from obstore.exceptions import GenericError

from tailorbird.errors import (
    AlreadyExists,
    DataCorrupt,
    InvalidArgument,
    InvalidRecords,
    NotFound,
    ResourceExhausted,
    StoreUnavailable,
)
from tailorbird.names import DatasetName, TenantName
from tailorbird.object_store import ObstoreStore, open_store
from tailorbird.records.formats import DatasetFormat
from trainer_svc.datasets import store as store_module
from trainer_svc.datasets.dataset import Dataset
from trainer_svc.datasets.digests import record_digest
from trainer_svc.datasets.store import DatasetStore

NAME = DatasetName("acme", "chats")
RECORD = json.dumps({"prompt": "a", "completion": "b", "id": 1}).encode() + b"\n"


@pytest.fixture
def store(tmp_path: Path) -> ObstoreStore:
    return open_store((tmp_path / "store").as_uri())


@pytest.fixture
def datasets(store: ObstoreStore, tmp_path: Path) -> DatasetStore:
    return DatasetStore(store, tmp_path / "spool", max_bytes=10_000, max_record_bytes=1024)


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def left_behind(store: ObstoreStore, tmp_path: Path) -> list[str]:
    keys = [info.key async for info in store.objects("tenants")]
    return keys + [path.name for path in (tmp_path / "spool").iterdir()]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 10_000])
async def test_a_byte_order_mark_before_the_first_line_is_not_stored(
    datasets: DatasetStore, store: ObstoreStore, size: int
) -> None:
    data = RECORD * 2 + b"\n" + RECORD.rstrip()
    marked = BOM_UTF8 + data
    parts = [marked[at : at + size] for at in range(0, len(marked), size)]
    dataset = await datasets.upload(NAME, len(marked), chunks(*parts))
    assert (await store.get(dataset.data_key, 10**6)) == data
    assert dataset.sha256 == hashlib.sha256(data).hexdigest()
    assert (dataset.size_bytes, dataset.record_count) == (len(data), 3)
    assert dataset.source_sha256 == hashlib.sha256(marked).hexdigest()
    # The same again is the same, and finds what is there.
    assert await datasets.upload(NAME, None, chunks(marked)) == dataset


async def test_a_first_line_may_be_as_long_with_a_mark_as_without(datasets: DatasetStore) -> None:
    record = json.dumps({"prompt": "a", "completion": "b" * (1024 - 33)}).encode()
    assert len(record) <= 1024 < len(BOM_UTF8 + record)
    await datasets.upload(NAME, None, chunks(BOM_UTF8 + record))


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (BOM_UTF8 + RECORD + b"{}\n", 2),
        (RECORD + BOM_UTF8 + RECORD, 2),
        (BOM_UTF8 + BOM_UTF8 + RECORD, 1),
        (BOM_UTF8[:2], 1),
    ],
)
async def test_lines_after_a_mark_are_numbered_as_ever(
    datasets: DatasetStore, data: bytes, line: int
) -> None:
    with pytest.raises(InvalidRecords) as caught:
        await datasets.upload(NAME, None, chunks(data))
    assert [error.line for error in caught.value.errors] == [line]


async def test_a_mark_alone_is_an_empty_file(datasets: DatasetStore) -> None:
    with pytest.raises(InvalidArgument, match="no records"):
        await datasets.upload(NAME, None, chunks(BOM_UTF8))


async def test_stores_what_was_uploaded_whatever_the_chunks(
    datasets: DatasetStore, store: ObstoreStore
) -> None:
    data = RECORD * 3 + b"\n" + RECORD.rstrip()
    dataset = await datasets.upload(NAME, len(data), chunks(data[:10], data[10:11], data[11:]))
    assert dataset.record_count == 4
    assert dataset.size_bytes == len(data)
    assert dataset.format is DatasetFormat.PROMPT_COMPLETION
    assert dataset.ignored_fields == ("id",)
    assert await datasets.get(NAME) == dataset
    assert await store.get(dataset.data_key) == data


async def test_the_same_upload_again_returns_the_dataset(datasets: DatasetStore) -> None:
    first = await datasets.upload(NAME, None, chunks(RECORD))
    assert await datasets.upload(NAME, None, chunks(RECORD)) == first


async def test_other_bytes_under_the_name_are_refused(
    datasets: DatasetStore, store: ObstoreStore
) -> None:
    first = await datasets.upload(NAME, None, chunks(RECORD))
    with pytest.raises(AlreadyExists, match="exists with other content"):
        await datasets.upload(NAME, None, chunks(RECORD * 2))
    assert await store.get(first.data_key) == RECORD


async def test_two_uploads_at_once_never_mix(datasets: DatasetStore, store: ObstoreStore) -> None:
    both = await asyncio.gather(
        datasets.upload(NAME, None, chunks(RECORD)),
        datasets.upload(NAME, None, chunks(RECORD * 2)),
        return_exceptions=True,
    )
    assert sorted(type(one).__name__ for one in both) == ["AlreadyExists", "Dataset"]
    dataset = await datasets.get(NAME)
    assert len(await store.get(dataset.data_key)) == dataset.size_bytes


@pytest.mark.parametrize(
    ("parts", "size", "error", "message"),
    [
        ([], None, InvalidArgument, "the file has no records"),
        ([b"\n \n"], None, InvalidArgument, "the file has no records"),
        ([RECORD, b"{oops\n", RECORD], None, InvalidRecords, "1 bad line of 3: line 2: not JSON"),
        ([RECORD, b'{"messages": ['], None, InvalidRecords, "line 2: not JSON"),
        (
            [RECORD, b'{"instruction": "a", "output": "b"}'],
            None,
            InvalidRecords,
            "line 2: instruction in a file whose first record is prompt_completion",
        ),
        ([RECORD], len(RECORD) + 1, InvalidArgument, "bytes were announced and"),
        ([RECORD, b"x" * 600, b"x" * 600], None, InvalidRecords, "line 2: longer than 1024 bytes"),
        ([b'{"text": "a", "metadata": 1}'], None, InvalidRecords, "line 1: metadata: an object"),
        ([RECORD * 500], None, InvalidArgument, "at most 10000 are accepted"),
        ([RECORD], 10_001, InvalidArgument, "at most 10000 are accepted"),
    ],
)
async def test_a_bad_upload_leaves_nothing_behind(
    datasets: DatasetStore,
    store: ObstoreStore,
    tmp_path: Path,
    parts: list[bytes],
    size: int | None,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        await datasets.upload(NAME, size, chunks(*parts))
    assert await left_behind(store, tmp_path) == []


async def test_an_upload_cut_half_way_leaves_nothing_behind(
    datasets: DatasetStore, store: ObstoreStore, tmp_path: Path
) -> None:
    async def cut() -> AsyncIterator[bytes]:
        yield RECORD
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await datasets.upload(NAME, None, cut())
    assert await left_behind(store, tmp_path) == []
    with pytest.raises(NotFound):
        await datasets.get(NAME)


async def test_a_full_disk_is_told_also_when_it_shows_only_at_the_end(
    datasets: DatasetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", lambda **_: Path("/dev/full").open("wb"))  # noqa: SIM115
    for data in (RECORD, RECORD * 200):
        with pytest.raises(ResourceExhausted) as caught:
            await datasets.upload(NAME, None, chunks(data))
        assert caught.value.reason == "DISK_FULL"


async def test_another_failure_of_the_disk_is_not_told_as_a_full_one(
    datasets: DatasetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**_: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", broken)
    with pytest.raises(OSError, match="broken"):
        await datasets.upload(NAME, None, chunks(RECORD))


async def test_a_store_without_room_is_told_as_a_full_disk_is(
    datasets: DatasetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another failure of the store stays what it is: the same call may work at once."""
    for number, kind in ((errno.ENOSPC, ResourceExhausted), (errno.EROFS, StoreUnavailable)):

        async def fail(*_: object, _number: int = number, **__: object) -> None:
            raise GenericError(f"Unable to copy data to file: no (os error {_number})")

        with monkeypatch.context() as patched:
            patched.setattr("obstore.put_async", fail)
            with pytest.raises(kind) as caught:
                await datasets.upload(NAME, None, chunks(RECORD))
        assert (caught.value.reason == "DISK_FULL") is (number == errno.ENOSPC)
    await datasets.upload(NAME, None, chunks(RECORD))


async def test_a_negative_size_is_refused(datasets: DatasetStore) -> None:
    with pytest.raises(InvalidArgument, match=r"header.size_bytes: -1 is negative"):
        await datasets.upload(NAME, -1, chunks(RECORD))


async def test_a_start_deletes_what_a_lost_process_left(
    store: ObstoreStore, tmp_path: Path
) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "half").write_bytes(b"x")
    DatasetStore(store, tmp_path / "spool", max_bytes=1, max_record_bytes=1024)
    assert await left_behind(store, tmp_path) == []


async def test_every_bad_line_is_told_and_the_rest_is_read(datasets: DatasetStore) -> None:
    bad = [
        b"\xff\n", RECORD, b"\n", b"{oops\n", b"x" * 2000 + b"\n", RECORD, b"[]\n",
        b'{"text": "a"}\n', b'{"prompt": "a", "completion": "\0"}\n',
        b'{"prompt": "a", "completion": ""}',
    ]  # fmt: skip
    data = b"".join(bad)
    for size in (1, 7, 100, len(data)):
        parts = [data[start : start + size] for start in range(0, len(data), size)]
        with pytest.raises(InvalidRecords) as caught:
            await datasets.upload(NAME, None, chunks(*parts))
        assert [field for field, _ in caught.value.violations] == [
            f"line {line}" for line in (1, 4, 5, 7, 8, 9, 10)
        ]
        texts = [text for _, text in caught.value.violations]
        assert texts[0] == "byte 1 is not UTF-8"
        assert texts[2] == "longer than 1024 bytes"
        assert (
            texts[4] == "text in a file whose first record is prompt_completion: one format a file"
        )
        assert texts[5].startswith("not JSON (Invalid control character")
        assert caught.value.message.startswith("7 bad lines of 9: line 1: byte 1 is not")


@pytest.mark.parametrize("named", [None, DatasetFormat.PROMPT_COMPLETION, DatasetFormat.TEXT])
async def test_a_format_may_be_named(datasets: DatasetStore, named: DatasetFormat | None) -> None:
    both = b'{"text": "a", "prompt": "b", "completion": "c"}\n'
    dataset = await datasets.upload(NAME, None, chunks(both), named)
    assert dataset.format is (named or DatasetFormat.PROMPT_COMPLETION)
    assert (await datasets.get(NAME)).format is dataset.format


async def test_a_record_of_another_format_than_the_named_one_is_told(
    datasets: DatasetStore,
) -> None:
    with pytest.raises(InvalidRecords) as caught:
        await datasets.upload(NAME, None, chunks(RECORD, b'{"text": "a"}'), DatasetFormat.TEXT)
    assert caught.value.reason == "MIXED_FORMATS"
    assert caught.value.violations == [
        ("line 1", "prompt_completion where the format asked for is text")
    ]


async def test_a_named_format_makes_no_record(datasets: DatasetStore) -> None:
    with pytest.raises(InvalidArgument, match="the file has no records"):
        await datasets.upload(NAME, None, chunks(b"\n"), DatasetFormat.TEXT)


async def test_the_same_bytes_as_another_format_are_another_dataset(datasets: DatasetStore) -> None:
    both = b'{"text": "a", "prompt": "b", "completion": "c"}\n'
    first = await datasets.upload(NAME, None, chunks(both), DatasetFormat.TEXT)
    with pytest.raises(AlreadyExists, match=r"exists with other content \(text, sha256"):
        await datasets.upload(NAME, None, chunks(both))
    assert await datasets.get(NAME) == first
    assert await datasets.upload(NAME, None, chunks(both), DatasetFormat.TEXT) == first


async def test_the_format_of_a_file_is_that_of_its_first_good_record(
    datasets: DatasetStore,
) -> None:
    text = b'{"text": "a"}\n'
    with pytest.raises(InvalidRecords) as caught:
        await datasets.upload(NAME, None, chunks(b"oops\n", text, RECORD, text))
    assert [field for field, _ in caught.value.violations] == ["line 1", "line 3"]


async def test_an_upload_has_a_report_and_an_index_beside_its_data(
    datasets: DatasetStore, store: ObstoreStore
) -> None:
    data = RECORD + b"\n" + RECORD
    dataset = await datasets.upload(NAME, None, chunks(data[:30], data[30:]))
    assert dataset.report is not None
    assert [(p.line, p.copy_of) for p in dataset.report.duplicates.pairs] == [(3, 1)]
    found = await datasets.index(await datasets.get(NAME))
    assert found is not None
    digest = record_digest(dataset.format, json.loads(RECORD))
    assert found.lines_of(digest.record) == [1, 3]
    assert sorted([info.key async for info in store.objects(str(NAME))]) == [
        f"{NAME}/data-{dataset.sha256}.jsonl",
        f"{NAME}/index-{dataset.sha256}-prompt_completion.bin",
        f"{NAME}/meta.json",
    ]


async def test_who_comes_second_takes_the_index_along(
    datasets: DatasetStore, store: ObstoreStore
) -> None:
    await asyncio.gather(
        datasets.upload(NAME, None, chunks(RECORD)),
        datasets.upload(NAME, None, chunks(RECORD * 2)),
        return_exceptions=True,
    )
    stored = [info.key async for info in store.objects(str(NAME))]
    dataset = await datasets.get(NAME)
    assert sorted(stored) == [dataset.data_key, dataset.index_key, f"{NAME}/meta.json"]


async def test_a_record_whose_writing_was_tried_twice_keeps_its_data(
    datasets: DatasetStore, store: ObstoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver that lost the answer of a create finds at its second try what it has made."""
    create = store.create

    async def twice(key: str, data: bytes) -> None:
        await create(key, data)
        await create(key, data)

    monkeypatch.setattr(store, "create", twice)
    made = await datasets.upload(NAME, None, chunks(RECORD))
    assert await datasets.get(NAME) == made
    assert await store.get(made.data_key) == RECORD
    assert await datasets.index(made) is not None


async def test_another_process_that_was_faster_keeps_what_is_its_own_alone(
    datasets: DatasetStore, store: ObstoreStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = DatasetStore(
        open_store((tmp_path / "store").as_uri()), tmp_path / "other", 10_000, 1024
    )
    create = store.create

    async def late(key: str, data: bytes) -> None:
        await other.upload(NAME, None, chunks(RECORD * 2))
        await create(key, data)

    monkeypatch.setattr(store, "create", late)
    with pytest.raises(AlreadyExists):
        await datasets.upload(NAME, None, chunks(RECORD))
    theirs = await datasets.get(NAME)
    assert await store.get(theirs.data_key) == RECORD * 2
    stored = {info.key async for info in store.objects(str(NAME))}
    assert stored == {theirs.data_key, theirs.index_key, f"{NAME}/meta.json"}


async def test_what_an_earlier_release_stored_is_read_and_has_neither(
    datasets: DatasetStore, store: ObstoreStore
) -> None:
    new = await datasets.upload(DatasetName("acme", "new"), None, chunks(RECORD))
    meta = new.model_dump(mode="json", exclude={"report"}) | {"name": str(NAME)}
    await store.put(f"{NAME}/meta.json", json.dumps(meta).encode())
    old = await datasets.get(NAME)
    assert old.report is None
    assert await datasets.index(old) is None
    assert await datasets.leakage(old, new) is None
    assert await datasets.leakage(new, old) is None


async def test_a_record_that_names_another_dataset_is_none_of_this_one(
    datasets: DatasetStore, store: ObstoreStore
) -> None:
    theirs = DatasetName("globex", "chats")
    made = await datasets.upload(theirs, None, chunks(RECORD))
    await store.put(f"{NAME}/meta.json", made.model_dump_json().encode())
    with pytest.raises(DataCorrupt, match="another dataset's record"):
        await datasets.get(NAME)
    assert await datasets.page(TenantName("acme"), 10) == ([], "")
    before = {info.key async for info in store.objects("tenants/globex")}
    await datasets.delete(NAME)
    assert {info.key async for info in store.objects("tenants")} == before


async def test_a_page_has_what_is_told_of_many_and_no_reports(datasets: DatasetStore) -> None:
    made = await datasets.upload(NAME, None, chunks(RECORD))
    assert made.report is not None
    page, _ = await datasets.page(TenantName("acme"), 10)
    assert page == [made.model_copy(update={"report": None})]


async def test_two_datasets_are_compared(datasets: DatasetStore) -> None:
    other = json.dumps({"prompt": "z", "completion": "b"}).encode() + b"\n"
    training = await datasets.upload(NAME, None, chunks(RECORD))
    validation = await datasets.upload(DatasetName("acme", "held"), None, chunks(other, RECORD))
    found = await datasets.leakage(training, validation)
    assert found is not None
    assert [(p.line, p.copy_of) for p in found.pairs] == [(2, 1)]
    assert found.compared == 2


@pytest.mark.parametrize(
    ("left", "reason"), [(b"TBINDEX", "INDEX_INVALID"), (None, "INDEX_MISSING")]
)
async def test_a_damaged_index_is_told(
    datasets: DatasetStore, store: ObstoreStore, left: bytes | None, reason: str
) -> None:
    dataset = await datasets.upload(NAME, None, chunks(RECORD))
    if left is None:
        await store.delete(dataset.index_key)
    else:
        await store.put(dataset.index_key, left)
    with pytest.raises(DataCorrupt, match=dataset.index_key) as caught:
        await datasets.leakage(dataset, dataset)
    assert caught.value.reason == reason


async def test_a_tenant_that_uploads_a_lot_waits_for_itself_alone(
    datasets: DatasetStore,
) -> None:
    full, go_on, begun = asyncio.Event(), asyncio.Event(), 0

    async def slow() -> AsyncIterator[bytes]:
        nonlocal begun
        begun += 1
        if begun == 8:
            full.set()
        await go_on.wait()
        yield RECORD

    names = [DatasetName("acme", f"d{number}") for number in range(9)]
    many = [asyncio.create_task(datasets.receive(name, None, slow())) for name in names]
    async with asyncio.timeout(30):
        await full.wait()
        await datasets.receive(DatasetName("globex", "chats"), None, chunks(RECORD))
    assert begun == 8
    go_on.set()
    assert [each.name for each in await asyncio.gather(*many)] == [str(name) for name in names]


async def test_only_two_comparisons_have_memory_at_once(
    datasets: DatasetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [DatasetName(tenant, "chats") for tenant in ("acme", "globex", "initech")]
    owned = [await datasets.upload(name, None, chunks(RECORD)) for name in names]
    loop, begun, go_on = asyncio.get_running_loop(), asyncio.Semaphore(0), threading.Event()
    running: list[int] = []

    def compared(*_: object) -> None:
        running.append(1)
        loop.call_soon_threadsafe(begun.release)
        go_on.wait(30)
        running.pop()

    monkeypatch.setattr(store_module, "leakage", compared)
    all_six = [asyncio.create_task(datasets.leakage(each, each)) for each in owned * 2]
    await begun.acquire()
    await begun.acquire()
    # A third would read its index while these two wait.
    await datasets.index(owned[0])
    await datasets.index(owned[0])
    assert len(running) == 2
    go_on.set()
    assert await asyncio.gather(*all_six) == [None] * 6


async def test_a_comparison_that_is_given_up_keeps_its_turn_until_it_ends(
    datasets: DatasetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = await datasets.upload(NAME, None, chunks(RECORD))
    loop, begun, go_on = asyncio.get_running_loop(), asyncio.Semaphore(0), threading.Event()

    def compared(*_: object) -> None:
        loop.call_soon_threadsafe(begun.release)
        go_on.wait(30)

    monkeypatch.setattr(store_module, "leakage", compared)
    given_up = asyncio.create_task(datasets.leakage(dataset, dataset))
    await begun.acquire()
    given_up.cancel()
    other = asyncio.create_task(datasets.leakage(dataset, dataset))
    # It would read its index, and begin, while these wait.
    for _ in range(3):
        await datasets.index(dataset)
    assert begun.locked()
    assert not given_up.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    assert await other is None


async def test_a_tenant_s_comparison_does_not_wait_for_all_of_another_s(
    datasets: DatasetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = await datasets.upload(NAME, None, chunks(RECORD))
    theirs = await datasets.upload(DatasetName("globex", "chats"), None, chunks(RECORD))
    monkeypatch.setattr(store_module, "leakage", lambda *_: None)
    ended: list[str] = []

    async def compare(dataset: Dataset) -> None:
        await datasets.leakage(dataset, dataset)
        ended.append(dataset.name)

    async with asyncio.TaskGroup() as group:
        for dataset in [*[ours] * 8, theirs]:
            group.create_task(compare(dataset))
    assert ended.index(theirs.name) <= 4
