"""What a worker knows of leaks between two datasets, and what it does where it cannot know."""

from __future__ import annotations

import asyncio
import weakref
from pathlib import Path
from typing import Any

import pytest

from tailorbird.errors import StoreUnavailable
from tests.unit.trainer_svc.engine.indexed import index_of, numbered, seeded
from tests.unit.trainer_svc.engine.stores import TryingStore
from trainer_svc.datasets import index
from trainer_svc.datasets.index import RecordIndex
from trainer_svc.engine.data.cache import DatasetCache
from trainer_svc.engine.data.files import DatasetFiles
from trainer_svc.engine.data.leaks import NOTHING_LEAKED, Leaked, Leaks
from trainer_svc.protocol import AncestorRef, DatasetRef


class Compared:
    def __init__(self, folder: Path) -> None:
        self.store = TryingStore(folder / "store")
        self.leaks = Leaks(DatasetFiles(self.store, DatasetCache(folder / "cache", 2**20)))

    async def refs(self) -> tuple[DatasetRef, DatasetRef]:
        """Store orders 0 to 5 to train on, and 4 to 9 to validate on."""
        training = await seeded(self.store, numbered(0, 6), "train")
        return training, await seeded(self.store, numbered(4, 10), "held")

    async def between(self, training: DatasetRef, validation: DatasetRef) -> Leaked:
        return await self.leaks.between(training, validation)


@pytest.fixture
def compared(tmp_path: Path) -> Compared:
    return Compared(tmp_path)


async def test_the_lines_are_those_of_the_validation_data(compared: Compared) -> None:
    found = await compared.between(*await compared.refs())
    assert (found.own.tolist(), found.unknown) == ([1, 2], "")


@pytest.mark.parametrize("which", ["train", "held"])
async def test_what_has_no_digests_is_not_known_of(compared: Compared, which: str) -> None:
    refs = [
        ref.model_copy(update={"index_key": ""}) if ref.name.endswith(which) else ref
        for ref in await compared.refs()
    ]
    found = await compared.between(*refs)
    assert found.own.tolist() == []
    assert "another release" in found.unknown


@pytest.mark.parametrize("damage", ["gone", "other bytes", "too large"])
async def test_lost_digests_end_nothing(
    compared: Compared, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, validation = await compared.refs()
    if damage == "gone":
        validation = validation.model_copy(update={"index_key": f"{validation.name}/none.bin"})
    elif damage == "other bytes":
        await compared.store.seed(validation.index_key, b"no index")
    else:
        monkeypatch.setattr("trainer_svc.engine.data.files.MAX_INDEX_BYTES", 100)
    found = await compared.between(training, validation)
    assert found.own.tolist() == []
    assert found.unknown.startswith("the digests of a dataset are lost: ")


async def test_digests_of_a_later_release_are_not_read(
    compared: Compared, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = await compared.refs()
    monkeypatch.setattr(index, "DIGEST_VERSION", 2)
    assert "another release" in (await compared.between(*refs)).unknown


async def test_records_past_the_end_of_the_digests_are_told_of(
    compared: Compared, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, validation = await compared.refs()
    monkeypatch.setattr(index, "MAX_ROWS", 5)
    await compared.store.seed(training.index_key, index_of(numbered(0, 6)))
    found = await compared.between(training, validation)
    assert found.own.tolist() == [1]
    assert found.unknown == f"of the 6 records of {training.name} the first 5 were looked at"


async def test_a_store_that_is_down_is_tried_again(compared: Compared) -> None:
    refs = await compared.refs()
    compared.store.down = "index"
    with pytest.raises(StoreUnavailable):
        await compared.between(*refs)


def ancestor(ref: DatasetRef, number: int = 1, **changes: Any) -> AncestorRef:
    """Return a version that was trained on the data."""
    told = {"dataset": ref.name, "sha256": ref.sha256, "index_key": ref.index_key}
    return AncestorRef(version=version(number), **{**told, **changes})


def version(number: int) -> str:
    return f"tenants/acme/adapters/support/versions/2026010{number}T000000-job-1"


async def test_what_the_versions_before_were_trained_on_leaks_as_well(compared: Compared) -> None:
    training, validation = await compared.refs()
    before = [
        ancestor(await seeded(compared.store, numbered(*orders), name), number)
        for number, (name, orders) in enumerate({"one": (5, 7), "two": (9, 12)}.items())
    ]
    found = await compared.leaks.between(training, validation, before)
    assert (found.own.tolist(), found.inherited.tolist()) == ([1, 2], [2, 3, 6])
    assert found.unknown == ""


async def test_the_job_s_own_data_is_not_compared_again(compared: Compared) -> None:
    training, validation = await compared.refs()
    compared.store.gets.clear()
    found = await compared.leaks.between(training, validation, [ancestor(training)])
    assert (found.own.tolist(), found.inherited.tolist()) == ([1, 2], [])
    assert sorted(compared.store.gets) == sorted([training.index_key, validation.index_key])
    assert await compared.leaks.within(training, [ancestor(training)]) is NOTHING_LEAKED
    assert len(compared.store.gets) == 2


async def test_data_that_two_versions_were_trained_on_is_read_once(compared: Compared) -> None:
    training, old = await compared.refs()
    compared.store.gets.clear()
    found = await compared.leaks.within(training, [ancestor(old), ancestor(old, 2)])
    # Of the training data itself orders 4 and 5.
    assert (found.own.tolist(), found.inherited.tolist()) == ([], [5, 6])
    assert compared.store.gets == [training.index_key, old.index_key]


@pytest.mark.parametrize("damage", ["gone", "none", "other bytes"])
async def test_a_version_s_lost_digests_are_told_of_and_end_nothing(
    compared: Compared, damage: str
) -> None:
    training, validation = await compared.refs()
    lost = await seeded(compared.store, numbered(0, 1), "lost")
    read = await seeded(compared.store, numbered(8, 9), "read")
    if damage == "other bytes":
        await compared.store.seed(lost.index_key, b"no index")
    else:
        lost = lost.model_copy(update={"index_key": "none.bin" if damage == "gone" else ""})
    before = [ancestor(lost, 2), ancestor(read, 1)]
    found = await compared.leaks.between(training, validation, before)
    assert (found.own.tolist(), found.inherited.tolist()) == ([1, 2], [5])
    said = (
        f"of {lost.name}, as {version(2)} was trained on it, no digests are left that this release "
        "reads"
    )
    assert found.unknown == said
    held = await compared.leaks.within(validation, before)
    assert (held.inherited.tolist(), held.unknown) == ([5], said)


async def test_a_version_of_which_nothing_is_known_is_told_of(compared: Compared) -> None:
    training, validation = await compared.refs()
    found = await compared.leaks.between(training, validation, [AncestorRef(version=version(1))])
    assert found.unknown == f"what {version(1)} was trained on is known no more"


async def test_held_out_records_of_data_without_digests_are_not_known_of(
    compared: Compared,
) -> None:
    training, old = await compared.refs()
    training = training.model_copy(update={"index_key": ""})
    found = await compared.leaks.within(training, [ancestor(old)])
    assert "another release" in found.unknown


async def test_what_is_past_the_end_of_any_digests_is_told_of(
    compared: Compared, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, validation = await compared.refs()
    old = await seeded(compared.store, numbered(20, 29), "old")
    monkeypatch.setattr(index, "MAX_ROWS", 5)
    for ref, orders in ((training, (0, 6)), (validation, (4, 10)), (old, (20, 29))):
        await compared.store.seed(ref.index_key, index_of(numbered(*orders)))
    found = await compared.leaks.between(training, validation, [ancestor(old)])
    assert found.unknown.split("; ") == [
        f"of the {count} records of {ref.name} the first 5 were looked at"
        for ref, count in ((training, 6), (validation, 6), (old, 9))
    ]
    found = await compared.leaks.within(training, [ancestor(old)])
    assert found.unknown.count("the first 5 were looked at") == 2


async def test_no_more_than_one_pair_of_digests_is_held(
    compared: Compared, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, validation = await compared.refs()
    before = [
        ancestor(await seeded(compared.store, numbered(number, number + 1), f"old-{number}"))
        for number in range(3)
    ]
    refs: list[weakref.ref[RecordIndex]] = []
    most = 0
    read = DatasetFiles.index

    async def counted(self: DatasetFiles, key: str) -> RecordIndex | None:
        nonlocal most
        found = await read(self, key)
        if found is not None:
            refs.append(weakref.ref(found))
            most = max(most, sum(each() is not None for each in refs))
        return found

    monkeypatch.setattr(DatasetFiles, "index", counted)
    two = (compared.leaks.between(training, validation, before) for _ in range(2))
    await asyncio.gather(*two)
    assert len(refs) == 10
    assert most == 2
