"""The data that a version has seen is found by its lineage, also where it was deleted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tailorbird.manifest import MANIFEST
from tailorbird.names import DatasetName, VersionName
from tailorbird.object_store import open_store
from tailorbird.registry import AdapterRegistry
from tests.unit.trainer_svc.values import make_manifest, put_version
from trainer_svc.datasets.dataset import Dataset
from trainer_svc.datasets.deleted import DeletedData
from trainer_svc.datasets.store import DatasetStore
from trainer_svc.jobs.inherited import Inherited, SeenData, distinct


def version(number: int, tenant: str = "acme") -> str:
    return f"tenants/{tenant}/adapters/voice/versions/2026010{number}T000000-job-1"


class World:
    def __init__(self, folder: Path) -> None:
        self.store = open_store((folder / "store").as_uri())
        self.datasets = DatasetStore(self.store, folder / "spool", 2**20, 2**16)
        self.inherited = Inherited(self.datasets, AdapterRegistry(self.store))

    async def upload(self, name: str, *questions: str, tenant: str = "acme") -> Dataset:
        async def chunks() -> AsyncIterator[bytes]:
            for each in questions:
                yield b'{"prompt": "%s", "completion": "yes"}\n' % each.encode()

        return await self.datasets.upload(DatasetName(tenant, name), None, chunks())

    async def trained(
        self, number: int, data: Dataset, before: str = "", held_out: int | None = None
    ) -> None:
        """Publish a version that was trained on the data."""
        lineage = make_manifest(version(number)).lineage.model_copy(
            update={
                "training_dataset": data.name,
                "training_dataset_sha256": data.sha256,
                "from_version": before,
                "held_out_records": held_out,
            }
        )
        await put_version(self.store, version(number), lineage=lineage)

    async def of(self, number: int) -> list[SeenData]:
        return await self.inherited.of(VersionName.parse(version(number)))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_line_of_versions_is_followed_to_the_nearest_few(world: World) -> None:
    data = [await world.upload(f"data-{number}", f"q{number}") for number in range(6)]
    for number, each in enumerate(data):
        await world.trained(number + 1, each, version(number) if number else "")
    found = await world.of(6)
    assert [(one.version, one.data) for one in found] == [
        (version(number + 1), data[number]) for number in (5, 4, 3, 2)
    ]
    assert [one.version for one in await world.of(1)] == [version(1)]


async def test_data_that_two_have_seen_is_named_with_what_each_held_out(world: World) -> None:
    data = await world.upload("data", "q")
    await world.trained(1, data, held_out=7)
    await world.trained(2, data, version(1), held_out=0)
    found = await world.of(2)
    assert [(one.version, one.held_out_records) for one in found] == [
        (version(2), 0),
        (version(1), 7),
    ]
    assert distinct(found) == found[:1]


async def test_the_digests_of_deleted_data_are_found_and_compared(world: World) -> None:
    data = await world.upload("data", "a", "b")
    await world.trained(1, data)
    await world.datasets.delete(DatasetName.parse(data.name))
    # The name has other data now.
    await world.upload("data", "c")
    held = await world.upload("held", "b", "d")
    (found,) = await world.of(1)
    assert isinstance(found.data, DeletedData)
    assert (found.data.sha256, found.dataset) == (data.sha256, data.name)
    shared = await world.datasets.leakage(found.data, held)
    assert shared is not None
    assert (shared.leaked, shared.pairs[0].line, shared.pairs[0].copy_of) == (1, 1, 2)


async def test_data_of_which_nothing_is_left_is_told_as_such(world: World) -> None:
    data = await world.upload("data", "a")
    await world.trained(1, data.model_copy(update={"sha256": "7" * 64}))
    (found,) = await world.of(1)
    assert found == SeenData(version(1), data.name, "7" * 64, None)


async def test_data_whose_record_is_another_s_is_not_taken_for_its_own(world: World) -> None:
    data = await world.upload("data", "a")
    await world.trained(1, data)
    theirs = data.model_copy(update={"name": "tenants/other/datasets/data"})
    await world.store.put(f"{data.name}/meta.json", theirs.model_dump_json().encode())
    (found,) = await world.of(1)
    assert (found.sha256, found.data) == (data.sha256, None)


async def test_no_other_tenant_s_data_is_looked_at(world: World) -> None:
    await world.trained(1, await world.upload("data", "a", tenant="other"))
    assert await world.of(1) == []


async def test_an_imported_version_names_no_data(world: World) -> None:
    data = await world.upload("data", "a")
    await world.trained(1, data.model_copy(update={"name": "", "sha256": ""}))
    assert await world.of(1) == []


@pytest.mark.parametrize("damaged", [False, True])
async def test_a_version_that_cannot_be_read_is_named(world: World, damaged: bool) -> None:
    data = await world.upload("data", "q")
    if damaged:
        await world.store.put(f"{version(1)}/{MANIFEST}", b"no manifest")
    await world.trained(2, data, version(1))
    assert await world.of(2) == [
        SeenData(version(2), data.name, data.sha256, data),
        SeenData(version(1)),
    ]
    assert await world.of(1) == [SeenData(version(1))]


@pytest.mark.parametrize("before", [version(1, "other"), "no version"])
async def test_nothing_is_said_of_a_version_that_is_no_version_of_the_tenant(
    world: World, before: str
) -> None:
    data = await world.upload("data", "q")
    await world.trained(2, data, before)
    assert [one.version for one in await world.of(2)] == [version(2)]
