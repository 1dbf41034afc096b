"""What a worker knows of leaks between two datasets, and what it does where it cannot know."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailorbird.errors import StoreUnavailable
from tests.unit.trainer_svc.engine.indexed import index_of, numbered, seeded
from tests.unit.trainer_svc.engine.stores import TryingStore
from trainer_svc.datasets import index
from trainer_svc.engine.data.cache import DatasetCache
from trainer_svc.engine.data.files import DatasetFiles
from trainer_svc.engine.data.leaks import Leaked, Leaks
from trainer_svc.protocol import DatasetRef


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
    assert (found.lines.tolist(), found.unknown) == ([1, 2], "")


@pytest.mark.parametrize("which", ["train", "held"])
async def test_what_has_no_digests_is_not_known_of(compared: Compared, which: str) -> None:
    refs = [
        ref.model_copy(update={"index_key": ""}) if ref.name.endswith(which) else ref
        for ref in await compared.refs()
    ]
    found = await compared.between(*refs)
    assert found.lines.tolist() == []
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
    assert found.lines.tolist() == []
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
    assert found.lines.tolist() == [1]
    assert found.unknown == f"of the 6 records of {training.name} the first 5 were looked at"


async def test_a_store_that_is_down_is_tried_again(compared: Compared) -> None:
    refs = await compared.refs()
    compared.store.down = "index"
    with pytest.raises(StoreUnavailable):
        await compared.between(*refs)
