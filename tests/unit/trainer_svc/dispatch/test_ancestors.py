"""What a worker is told of the versions that a job trains on from, and of their data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tailorbird.errors import StoreUnavailable
from tailorbird.manifest import REPORT, FileEntry
from tailorbird.names import DatasetName
from tailorbird.registry import AdapterRegistry
from tests.unit.trainer_svc.engine.stores import TryingStore
from tests.unit.trainer_svc.values import make_job, make_manifest, put_version
from trainer_svc.datasets.dataset import Dataset
from trainer_svc.datasets.deleted import kept_key
from trainer_svc.datasets.store import DatasetStore
from trainer_svc.dispatch.assignment import Assignments
from trainer_svc.jobs.fence import Lease
from trainer_svc.jobs.model import Job
from trainer_svc.protocol import AncestorRef, Assignment

OWN = "chats"


def version(number: int, tenant: str = "acme") -> str:
    return f"tenants/{tenant}/adapters/voice/versions/2026010{number}T000000-job-1"


def job(**changes: Any) -> Job:
    """Return a job on OWN that trains on from version 1."""
    made = make_job()
    spec = made.spec.model_copy(update={"from_version": version(1), **changes})
    return made.model_copy(update={"spec": spec})


class World:
    def __init__(self, folder: Path) -> None:
        self.store = TryingStore(folder / "store")
        self.datasets = DatasetStore(self.store, folder / "spool", 2**20, 2**20)
        registry = AdapterRegistry(self.store)
        self.assignments = Assignments(self.datasets, registry, lambda _: "sha256:0")

    async def upload(self, name: str, question: str, tenant: str = "acme") -> Dataset:
        async def chunks() -> AsyncIterator[bytes]:
            yield b'{"prompt": "%s", "completion": "yes"}\n' % question.encode()

        return await self.datasets.upload(DatasetName(tenant, name), None, chunks())

    async def trained(
        self, number: int, data: Dataset, *, report: bytes | None = None, **lineage: Any
    ) -> None:
        """Publish a version that was trained on the data."""
        told = {"training_dataset": data.name, "training_dataset_sha256": data.sha256, **lineage}
        changes: dict[str, Any] = {
            "lineage": make_manifest(version(number)).lineage.model_copy(update=told)
        }
        if report is not None:
            await self.store.put(f"{version(number)}/{REPORT}", report)
            sha256 = hashlib.sha256(report).hexdigest()
            changes["files"] = {REPORT: FileEntry(size=len(report), sha256=sha256)}
        await put_version(self.store, version(number), **changes)

    async def of(self, of: Job) -> Assignment:
        given = await self.assignments.of(Lease(of.name, 1, 0), of, 1)
        # A check of a job that nobody has accepted judges by the same.
        assert (await self.assignments.unleased(of)).ancestors == given.ancestors
        return given


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_the_data_of_the_versions_before_is_named_with_its_digests(world: World) -> None:
    await world.upload(OWN, "own")
    one, two = [await world.upload(name, name) for name in ("one", "two")]
    await world.trained(2, two, held_out_records=0)
    await world.trained(1, one, from_version=version(2), held_out_records=12)
    await world.datasets.delete(DatasetName.parse(two.name))
    first, second = (await world.of(job())).ancestors
    assert first == AncestorRef(
        version=version(1),
        dataset=one.name,
        sha256=one.sha256,
        index_key=one.index_key,
        held_out_records=12,
    )
    # That of deleted data lies elsewhere.
    assert second == AncestorRef(
        version=version(2),
        dataset=two.name,
        sha256=two.sha256,
        index_key=kept_key(two),
        held_out_records=0,
    )
    for each in (first, second):
        assert await world.store.get(each.index_key)


async def test_fresh_weights_come_from_no_version(world: World) -> None:
    await world.upload(OWN, "own")
    await world.trained(1, await world.upload("one", "one"))
    assert (await world.of(job(from_version=""))).ancestors == ()


@pytest.mark.parametrize("damage", ["other data", "record", "no report"])
async def test_data_of_which_no_digests_are_left_fails_no_job(world: World, damage: str) -> None:
    await world.upload(OWN, "own")
    one = await world.upload("one", "one")
    sha256 = one.sha256
    if damage == "other data":
        sha256 = "7" * 64
    elif damage == "record":
        await world.store.put(f"{one.name}/meta.json", b"no record")
    else:
        stored = one.model_copy(update={"report": None})
        await world.store.put(f"{one.name}/meta.json", stored.model_dump_json().encode())
    await world.trained(1, one, training_dataset_sha256=sha256)
    (found,) = (await world.of(job())).ancestors
    assert found == AncestorRef(version=version(1), dataset=one.name, sha256=sha256)


async def test_a_version_whose_manifest_is_gone_is_named(world: World) -> None:
    await world.upload(OWN, "own")
    assert (await world.of(job())).ancestors == (AncestorRef(version=version(1)),)


async def test_nothing_of_another_tenant_is_named(world: World) -> None:
    await world.upload(OWN, "own")
    theirs = await world.upload("one", "one", tenant="other")
    await world.trained(1, theirs, from_version=version(2, "other"))
    assert (await world.of(job())).ancestors == ()


@pytest.mark.parametrize("what", ["manifest", "datasets/one", "report"])
async def test_a_store_that_is_down_has_the_job_wait(world: World, what: str) -> None:
    own = await world.upload(OWN, "own")
    await world.trained(2, await world.upload("one", "one"))
    await world.trained(1, own, from_version=version(2), report=b"{}")
    world.store.down = what
    with pytest.raises(StoreUnavailable):
        await world.of(job())


@pytest.mark.parametrize(
    ("report", "seed"),
    [
        (json.dumps({"hyperparameters": {"seed": 7}, "lora": None}).encode(), 7),
        (json.dumps({"hyperparameters": {"seed": "seven"}}).encode(), None),
        (b"{}", None),
        (b"no report", None),
        (None, None),
    ],
)
async def test_what_a_version_drew_its_held_out_records_by_is_in_its_report(
    world: World, report: bytes | None, seed: int | None
) -> None:
    await world.trained(1, await world.upload(OWN, "own"), report=report)
    (found,) = (await world.of(job())).ancestors
    assert found.seed == seed


async def test_a_seed_is_asked_for_only_where_it_tells_something(world: World) -> None:
    report = json.dumps({"hyperparameters": {"seed": 7}}).encode()
    held = await world.upload("held", "held")
    await world.trained(1, await world.upload(OWN, "own"), report=report)
    (found,) = (await world.of(job(validation_dataset=held.name))).ancestors
    assert found.seed is None
    await world.trained(2, held, report=report)
    (found,) = (await world.of(job(from_version=version(2)))).ancestors
    assert found.seed is None
