"""Deleting a dataset, with the object store failing at every step of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.errors import DataCorrupt, NotFound, StoreUnavailable
from tailorbird.names import _ID, DatasetName, TenantName
from tailorbird.object_store import ObstoreStore, open_store
from tailorbird.personal_data.modes import Mode
from trainer_svc.datasets.asked import id_of
from trainer_svc.datasets.locks import Locks
from trainer_svc.datasets.store import DatasetStore

NAME = DatasetName("acme", "chats")
DATA = b'{"prompt": "a", "completion": "b"}\n'


class Failing:
    """A store that fails at one call that changes it: before it, or after it was made."""

    def __init__(self, store: ObstoreStore, at: int, *, after: bool) -> None:
        self._store = store
        self._left = at
        self._after = after

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name not in {"put", "create", "delete", "upload"}:
            return found

        async def call(*args: Any) -> Any:
            self._left -= 1
            if self._left:
                return await found(*args)
            if self._after:
                await found(*args)
            raise StoreUnavailable("as the test wants")

        return call


def datasets(store: Any, folder: Path) -> DatasetStore:
    return DatasetStore(store, folder / "spool", 2**20, 2**16)


async def chunks(*data: bytes) -> AsyncIterator[bytes]:
    for each in data:
        yield each


async def keys(store: ObstoreStore) -> list[str]:
    return sorted([info.key async for info in store.objects("tenants")])


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", [1, 2, 3, 4])
async def test_what_is_deleted_in_part_is_whole_or_gone_and_goes_with_the_next_call(
    tmp_path: Path, at: int, after: bool
) -> None:
    store = open_store((tmp_path / "store").as_uri())
    whole = datasets(store, tmp_path)
    made = await whole.upload(NAME, None, chunks(DATA))
    before = await keys(store)
    with pytest.raises(StoreUnavailable):
        await datasets(Failing(store, at, after=after), tmp_path).delete(NAME)
    found, _ = await whole.page(TenantName("acme"), 10)
    if found:
        assert [each.name for each in found] == [str(NAME)]
        assert set(before) <= set(await keys(store))
        assert (await whole.index(made)) is not None
    else:
        with pytest.raises(NotFound):
            await whole.get(NAME)
    if any(key.startswith(f"{NAME}/") for key in await keys(store)):
        await whole.delete(NAME)
    else:
        assert (at, after) == (4, True)
    kept = f"tenants/acme/deleted_datasets/chats/index-{made.sha256}-prompt_completion-off.bin"
    assert await keys(store) == [kept]
    with pytest.raises(NotFound):
        await whole.delete(NAME)


async def test_an_upload_after_a_deletion_in_part_is_whole(tmp_path: Path) -> None:
    store = open_store((tmp_path / "store").as_uri())
    whole = datasets(store, tmp_path)
    await whole.upload(NAME, None, chunks(DATA))
    with pytest.raises(StoreUnavailable):
        await datasets(Failing(store, 3, after=False), tmp_path).delete(NAME)
    again = await whole.upload(NAME, None, chunks(DATA))
    assert await store.get(again.data_key) == DATA
    assert await whole.index(again) is not None
    await whole.delete(NAME)


async def test_a_dataset_whose_record_or_digests_are_broken_can_be_deleted(tmp_path: Path) -> None:
    store = open_store((tmp_path / "store").as_uri())
    whole = datasets(store, tmp_path)
    for broken in ("meta.json", "index"):
        made = await whole.upload(NAME, None, chunks(DATA))
        if broken == "index":
            await store.delete(made.index_key)
        else:
            await store.put(f"{NAME}/meta.json", b"{")
            with pytest.raises(DataCorrupt):
                await whole.get(NAME)
        await whole.delete(NAME)
        assert await keys(store) == []


async def test_a_dataset_with_more_digests_than_are_read_can_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store((tmp_path / "store").as_uri())
    whole = datasets(store, tmp_path)
    await whole.upload(NAME, None, chunks(DATA))
    monkeypatch.setattr("trainer_svc.datasets.deleted.MAX_INDEX_BYTES", 8)
    await whole.delete(NAME)
    assert await keys(store) == []


async def test_a_dataset_of_an_earlier_release_leaves_nothing(tmp_path: Path) -> None:
    store = open_store((tmp_path / "store").as_uri())
    whole = datasets(store, tmp_path)
    made = await whole.upload(NAME, None, chunks(DATA))
    old = made.model_copy(update={"report": None})
    await store.put(f"{NAME}/meta.json", old.model_dump_json().encode())
    await whole.delete(NAME)
    assert await keys(store) == []


@given(
    st.text(max_size=120).map(lambda text: f"s3://b/{text}"),
    st.sampled_from(Mode),
)
def test_whatever_a_uri_is_called_its_dataset_has_an_id(uri: str, mode: Mode) -> None:
    import re

    assert re.fullmatch(_ID, id_of(uri, "0" * 64, mode))


def test_an_id_differs_by_uri_content_and_mode() -> None:
    first = id_of("s3://b/Chats.v1.jsonl", "0" * 64, Mode.OFF)
    assert first.startswith("chats-")
    assert id_of("s3://b/x/Chats.v1.jsonl", "0" * 64, Mode.OFF) != first
    assert id_of("s3://b/Chats.v1.jsonl", "1" * 64, Mode.OFF) != first
    assert id_of("s3://b/Chats.v1.jsonl", "0" * 64, Mode.SCAN) != first


async def test_locks_of_several_keys_are_taken_in_one_order() -> None:
    locks = Locks()

    async def take(*keys: str) -> None:
        async with locks.held(*keys):
            await asyncio.sleep(0)

    async with asyncio.timeout(5):
        await asyncio.gather(*(take(*keys) for keys in (("a", "b"), ("b", "a"), ("a", "a"))))
    async with locks.held("a"):
        waiting = asyncio.create_task(take("b", "a"))
        other = asyncio.create_task(take("c"))
        await other
        assert not waiting.done()
    await waiting
