"""What a round removes and what it leaves, with a real job store and a real object store."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from obstore.store import LocalStore

from tailorbird.errors import NotFound, StoreUnavailable
from tailorbird.names import DatasetName, JobName, TenantName, VersionName
from tailorbird.object_store import ObjectInfo, ObstoreStore
from tailorbird.registry import TOMBSTONE
from tests.unit.trainer_svc.housekeeping.world import ADAPTER, RULES, World, version_of
from tests.unit.trainer_svc.values import make_manifest
from trainer_svc.checkpoints import checkpoints_prefix, trial_prefix
from trainer_svc.housekeeping import collector
from trainer_svc.housekeeping.collector import collect
from trainer_svc.housekeeping.model import MOST_FAILURES, Collected, Count, Kind, Rules, Tally
from trainer_svc.housekeeping.partial_files import partial_files
from trainer_svc.jobs.database import Database, DatabaseUnavailable
from trainer_svc.jobs.housekeeping import delete_job as delete_job_now
from trainer_svc.jobs.model import JobError, JobState
from trainer_svc.jobs.publication import Publication


async def collected(world: World, rules: Rules = RULES) -> Collected:
    """Collect, after a dry run that must tell the same and remove nothing."""
    before = await world.keys("")
    told = await collect(world.stores, rules, dry_run=True)
    assert await world.keys("") == before
    found = await collect(world.stores, rules, dry_run=False)
    assert (found.removed, found.failures) == (told.removed, told.failures)
    assert (await collect(world.stores, rules, dry_run=False)).removed == {}
    return found


async def test_nothing_is_removed_where_there_is_nothing(world: World) -> None:
    found = await collected(world)
    assert (found.removed, found.failure_count) == ({}, 0)


# ---- checkpoints


async def test_checkpoints_of_an_ended_job_go(world: World) -> None:
    name = await world.failed()
    for folder in ("lease-000001/00000002", "trial-01/lease-000001/00000003", "00000001"):
        await world.checkpoint(f"{checkpoints_prefix(name)}/{folder}")
    found = await collected(world)
    assert found.removed == {Kind.CHECKPOINTS: Count(things=3, objects=6, bytes=30 + 3 * 15)}
    assert await world.keys() == []


async def test_checkpoints_of_a_cancelled_requeued_job_go(world: World) -> None:
    lease = await world.leased()
    await world.checkpoint(f"{checkpoints_prefix(lease.job)}/lease-000001/00000002")
    await world.jobs.request_cancel(lease.job)
    await world.jobs.take_back("")
    assert (await world.jobs.get(lease.job)).state is JobState.CANCELLED
    await collected(world)
    assert await world.keys() == []


async def test_what_was_written_lately_stays(world: World) -> None:
    name = await world.failed()
    folder = await world.checkpoint(f"{checkpoints_prefix(name)}/lease-000001/00000002")
    world.age(f"{folder}/manifest.json", 0.9)
    assert (await collected(world)).removed == {}


@pytest.mark.parametrize("state", ["queued", "paused", "active"])
async def test_what_a_job_may_go_on_from_stays_however_old_it_is(world: World, state: str) -> None:
    name = (await world.leased()).job if state == "active" else await world.job()
    if state == "paused":
        await world.jobs.request_pause(name)
    for step in (1, 2):
        await world.checkpoint(f"{checkpoints_prefix(name)}/lease-000001/0000000{step}", days=999)
    assert (await collected(world)).removed == {}


@pytest.mark.parametrize("trial", [None, 1])
async def test_what_newer_checkpoints_replaced_goes(world: World, trial: int | None) -> None:
    name = await world.job()
    folder = checkpoints_prefix(name) if trial is None else trial_prefix(name, trial)
    for old in ("00000009", "lease-000001/00000008"):
        await world.checkpoint(f"{folder}/{old}", best=True)
    for step, best in ((1, True), (2, True), (3, False), (4, False), (5, False)):
        await world.checkpoint(f"{folder}/lease-000002/0000000{step}", best=best)
    # A later holder has begun to write, long ago; and one does now.
    await world.put(f"{folder}/lease-000003/00000006/adapter-00.safetensors")
    await world.put(f"{folder}/lease-000004/00000006/adapter-00.safetensors", days=0)
    await collected(world)
    left = {key.rpartition("/")[0].removeprefix(f"{folder}/") for key in await world.keys()}
    kept = {f"lease-000002/0000000{step}" for step in (2, 4, 5)}
    assert left == {*kept, "lease-000004/00000006"}


async def test_a_manifest_that_cannot_be_read_is_none_of_the_best(world: World) -> None:
    name = await world.job()
    for step, manifest in enumerate((b'{"best": true}', b"[]", b"{", b"\xff", b'{"best": 1}'), 1):
        folder = f"{checkpoints_prefix(name)}/lease-000001/0000000{step}"
        await world.put(f"{folder}/manifest.json", manifest)
    await collected(world)
    assert [key.split("/")[-2] for key in await world.keys()] == [
        "00000001",
        "00000004",
        "00000005",
    ]


async def test_what_a_worker_keeps_is_not_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await world.job()
    for step in (1, 2):
        await world.checkpoint(f"{checkpoints_prefix(name)}/lease-000001/0000000{step}")
    read: list[str] = []

    async def get(key: str, max_bytes: int | None = None) -> bytes:
        read.append(key)
        return b"{}"

    monkeypatch.setattr(world.objects, "get", get)
    await collect(world.stores, RULES, dry_run=False)
    assert read == []


async def test_one_trials_checkpoints_replace_no_others(world: World) -> None:
    name = await world.job()
    for trial, lease in ((1, 1), (2, 2)):
        await world.checkpoint(f"{trial_prefix(name, trial)}/lease-00000{lease}/00000001")
    assert (await collected(world)).removed == {}


async def test_a_job_that_the_job_store_does_not_know_is_left_alone(world: World) -> None:
    """It is another store's, or this one was restored from a backup."""
    await world.checkpoint(f"{checkpoints_prefix(JobName('acme', 'ghost'))}/lease-000001/00000002")
    assert (await collected(world)).removed == {}


async def test_the_manifest_goes_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    name = await world.failed()
    await world.checkpoint(f"{checkpoints_prefix(name)}/lease-000001/00000002")
    gone: list[str] = []

    async def delete(key: str) -> None:
        gone.append(key.rpartition("/")[2])

    monkeypatch.setattr(world.objects, "delete", delete)
    await collect(world.stores, RULES, dry_run=False)
    assert gone == ["manifest.json", "adapter-00.safetensors"]


# ---- versions


async def test_a_version_that_was_never_committed_goes(world: World) -> None:
    lease, version = await world.uploading()
    assert (await collected(world)).removed == {}
    await world.jobs.release(lease.write())
    again = await world.jobs.claim("another")
    assert again is not None
    # Still the row's, and somebody may go on with it.
    assert (await collected(world)).removed == {}
    await world.jobs.fail(again[0].write(), JobError(reason="X", message="x"))
    found = await collected(world)
    assert found.removed == {Kind.UNCOMMITTED_VERSIONS: Count(things=1, objects=1, bytes=10)}
    assert await world.keys() == []
    assert version.rpartition("/")[2] in version


async def test_an_earlier_leases_upload_goes_while_the_job_goes_on(world: World) -> None:
    lease, version = await world.uploading()
    earlier = version_of("one", 0)
    await world.put(f"{earlier}/adapter_model.safetensors")
    await collected(world)
    assert await world.keys() == [f"{version}/adapter_model.safetensors"]
    assert lease.epoch == 1


async def test_a_committed_version_stays_until_its_manifest_is_written(world: World) -> None:
    lease, version = await world.uploading()
    await world.jobs.commit(lease.write(), Publication(manifest=make_manifest(version), route=None))
    assert (await collected(world)).removed == {}


async def test_a_published_version_whose_manifest_was_lost_stays(world: World) -> None:
    lease, version = await world.uploading()
    await world.publish(lease, version)
    assert (await collected(world)).removed == {}
    assert await world.keys() == [f"{version}/adapter_model.safetensors"]


async def test_an_import_that_never_ended_goes_and_one_under_way_stays(world: World) -> None:
    """No job store knows of an import: its version names no job."""
    begun = f"{ADAPTER}/versions/20260101T000000-import-1/adapter_model.safetensors"
    await world.put(begun)
    await world.put(begun.replace("voice", "other"), days=0.5)
    await collected(world)
    assert await world.keys() == [begun.replace("voice", "other")]


async def test_a_published_version_stays(world: World) -> None:
    await world.published()
    await world.put(f"{ADAPTER}/versions/notes/readme.txt")
    assert (await collected(world)).removed == {}


async def buried(world: World, version: str, days: float = 30) -> None:
    await world.registry.bury(VersionName.parse(version), "test")
    world.age(f"{version}/{TOMBSTONE}", days)


async def test_of_a_deleted_version_the_tombstone_and_the_manifest_stay(world: World) -> None:
    version = await world.published()
    await buried(world, version)
    found = await collected(world)
    assert found.removed[Kind.DELETED_VERSIONS].objects == 2
    assert await world.keys() == [f"{version}/{file}" for file in ("manifest.json", TOMBSTONE)]
    with pytest.raises(NotFound) as raised:
        await world.registry.check_present(VersionName.parse(version))
    assert raised.value.reason == "VERSION_DELETED"
    assert await world.registry.stored_manifest(VersionName.parse(version))


async def test_a_version_deleted_lately_stays(world: World) -> None:
    version = await world.published()
    await buried(world, version, days=6.9)
    assert (await collected(world)).removed == {}


async def test_a_deleted_version_that_the_newest_route_leads_to_stays(world: World) -> None:
    old, new = await world.published("one"), await world.published("two")
    await world.route(old)
    await buried(world, old)
    assert (await collected(world)).removed == {}
    await world.route(new, 2)
    assert (await collected(world)).removed[Kind.DELETED_VERSIONS].things == 1


# ---- datasets


async def test_an_upload_that_never_ended_goes(world: World) -> None:
    name = await world.dataset()
    other = f"tenants/acme/datasets/half/data-{'0' * 64}.jsonl"
    await world.put(other)
    await world.put("tenants/acme/datasets/now/data-0.jsonl", days=0.5)
    world.age(str(name), 30)
    found = await collected(world)
    assert found.removed == {Kind.ABANDONED_UPLOADS: Count(things=1, objects=1, bytes=10)}
    assert (await world.datasets.get(name)).record_count == 1
    assert other not in await world.keys()


async def test_what_the_slower_of_two_uploads_left_goes(world: World) -> None:
    name = await world.dataset()
    whole = await world.keys()
    world.age(str(name), 30)
    await world.put(f"{name}/data-{'0' * 64}.jsonl")
    assert (await collected(world)).removed[Kind.ABANDONED_UPLOADS].objects == 1
    assert await world.keys() == whole


async def test_one_new_file_keeps_them_all(world: World) -> None:
    """An upload of the same bytes again may be under way."""
    await world.put("tenants/acme/datasets/half/data-0.jsonl")
    await world.put("tenants/acme/datasets/half/index-0.bin", days=0.1)
    assert (await collected(world)).removed == {}


async def test_a_dataset_is_looked_at_in_its_turn(world: World) -> None:
    name = await world.dataset("half")
    await world.objects.delete(f"{name}/meta.json")
    world.age(str(name), 30)

    @asynccontextmanager
    async def turn(dataset: DatasetName) -> AsyncIterator[None]:
        assert dataset == name
        # Who had the turn before has just put the same bytes again.
        world.age(str(name), 0)
        yield

    stores = replace(world.stores, turn=turn)
    assert (await collect(stores, RULES, dry_run=False)).removed == {}


# ---- ended jobs, hot lists, caches


async def test_jobs_that_ended_long_ago_go_where_that_is_asked_for(world: World) -> None:
    old = await world.failed("old")
    await world.checkpoint(f"{checkpoints_prefix(old)}/lease-000001/00000002", days=0)
    await world.ended(old, 91)
    new = await world.failed("new")
    await world.ended(new, 89)
    await world.job("open")
    assert (await collected(world)).removed == {}
    found = await collected(world, replace(RULES, ended_jobs=timedelta(days=90)))
    assert found.removed == {Kind.ENDED_JOBS: Count(things=1, objects=4, bytes=0)}
    left = await world.jobs.page(TenantName("acme"), limit=9)
    assert {job.name.job for job in left} == {"new", "open"}
    assert await world.jobs.events(old, 0, 10) == []
    assert await world.keys() == []


async def test_a_job_that_another_collector_deletes_first_is_no_failure(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.ended(await world.failed(), 40)

    async def slower(database: Database, name: JobName) -> int:
        await delete_job_now(database, name)
        return await delete_job_now(database, name)

    monkeypatch.setattr(collector, "delete_job", slower)
    rules = replace(RULES, ended_jobs=timedelta(days=30))
    found = await collect(world.stores, rules, dry_run=False)
    assert (found.removed, found.failures) == ({}, ())


async def test_more_jobs_than_a_page_go_and_one_that_cannot_holds_up_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "_JOBS_A_PAGE", 2)
    for job in "abcde":
        await world.ended(await world.failed(job), 100)

    async def delete_job(database: Database, name: JobName) -> int:
        if name.job == "b":
            raise StoreUnavailable("as the test wants")
        return await delete_job_now(database, name)

    monkeypatch.setattr(collector, "delete_job", delete_job)
    found = await collect(
        world.stores, replace(RULES, ended_jobs=timedelta(days=90)), dry_run=False
    )
    assert found.removed[Kind.ENDED_JOBS].things == 4
    assert found.failures == ("tenants/acme/jobs/b: as the test wants",)
    assert [job.name.job for job in await world.jobs.page(TenantName("acme"), limit=9)] == ["b"]


async def test_old_hot_lists_go_but_a_profiles_newest(world: World) -> None:
    for replica, days in (("a", 99), ("b", 31), ("c", 29), ("d", 1)):
        await world.put(f"replicas/cpu/{replica}/hot.json", days=days)
    await world.put("replicas/gpu/a/hot.json", days=999)
    await world.put("replicas/gpu/a/other.json", days=999)
    found = await collected(world)
    assert found.removed[Kind.HOT_LISTS].things == 2
    left = [f"replicas/cpu/{replica}/hot.json" for replica in "cd"]
    assert await world.keys("replicas") == [
        *left,
        *(f"replicas/gpu/a/{n}.json" for n in ("hot", "other")),
    ]


def cached(world: World, entry: str, days: float) -> Path:
    folder = world.caches / entry
    folder.mkdir(parents=True)
    (folder / "tokens").write_bytes(b"12345")
    then = time.time() - days * 86400
    os.utime(folder, (then, then))
    return folder


async def test_cached_data_that_nothing_used_for_long_goes(world: World) -> None:
    old, new = cached(world, "acme/old", 31), cached(world, "acme/new", 29)
    partial = cached(world, ".partial/x", 99)
    held = cached(world, "acme/held", 99)
    lock = os.open(held, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_SH)
    found = await collect(world.stores, RULES, dry_run=False)
    os.close(lock)
    assert found.removed == {Kind.LOCAL_CACHES: Count(things=1, objects=1, bytes=5)}
    assert [folder.exists() for folder in (old, new, partial, held)] == [False, True, True, True]
    assert (await collected(world)).removed[Kind.LOCAL_CACHES].things == 1


# ---- what fails


class Trying(ObstoreStore):
    """A store that does not answer where a key holds one of these."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        super().__init__(LocalStore(folder, automatic_cleanup=True))
        self.down: tuple[str, ...] = ()

    async def folders(self, prefix: str) -> list[str]:
        self._try(prefix)
        return await super().folders(prefix)

    async def objects(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        self._try(prefix)
        async for info in super().objects(prefix):
            yield info

    async def delete(self, key: str) -> None:
        self._try(key)
        await super().delete(key)

    def _try(self, key: str) -> None:
        if any(part in f"{key}/" for part in self.down):
            raise StoreUnavailable("as the test wants")


@pytest.fixture
def trying(tmp_path: Path, database: Database) -> World:
    return World(tmp_path, database, Trying(tmp_path / "store"))


@pytest.mark.parametrize(
    "down", ["acme/", "/one/", "acme/datasets/", "adapters/voice/", "00000002/adapter-00"]
)
async def test_one_that_fails_holds_up_no_other(trying: World, down: str) -> None:
    for tenant, job in (("acme", "one"), ("acme", "two"), ("globex", "three")):
        name = await trying.failed(job, tenant)
        await trying.checkpoint(f"{checkpoints_prefix(name)}/lease-000001/00000002")
    await trying.put(f"{version_of('ghost')}/adapter_model.safetensors")
    trying.objects.down = (down,)  # type: ignore[attr-defined]
    found = await collect(trying.stores, RULES, dry_run=False)
    assert found.failure_count >= 1
    assert all("as the test wants" in failure for failure in found.failures)
    left = await trying.keys("tenants/globex")
    assert left == [] or down == "00000002/adapter-00"
    trying.objects.down = ()  # type: ignore[attr-defined]
    await collect(trying.stores, RULES, dry_run=False)
    assert await trying.keys() == []


async def test_a_bug_at_one_holds_up_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.put(f"{version_of('ghost')}/adapter_model.safetensors")
    await world.put("tenants/acme/datasets/half/data-0.jsonl")

    def broken(*_: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(collector, "uncommitted", broken)
    found = await collect(world.stores, RULES, dry_run=False)
    assert found.failures == (f"{ADAPTER}: RuntimeError",)
    assert found.removed[Kind.ABANDONED_UPLOADS].things == 1


async def test_a_store_that_fails_everywhere_ends_the_round(trying: World) -> None:
    for number in range(9):
        await trying.put(f"tenants/t{number}/jobs/x/checkpoints/1/manifest.json")
    trying.objects.down = ("/jobs/",)  # type: ignore[attr-defined]
    found = await collect(trying.stores, RULES, dry_run=False)
    assert found.failure_count == 6
    assert found.failures[-1] == "tenants: given up after 5 in a row that failed"


async def test_a_tenant_that_takes_too_long_waits_for_the_next_round(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.put("tenants/acme/datasets/half/data-0.jsonl")
    monkeypatch.setattr(collector, "_LONGEST_SECONDS", 0.05)

    async def standing(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(collector, "standings", standing)
    found = await collect(world.stores, RULES, dry_run=False)
    assert found.failures == ("tenants/acme: TimeoutError",)


@pytest.mark.parametrize("fails", ["store_time", "standings", "tenants_of"])
async def test_a_job_store_that_does_not_answer_means_that_nothing_is_deleted(
    world: World, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    name = await world.failed()
    await world.checkpoint(f"{checkpoints_prefix(name)}/lease-000001/00000002")
    await world.put(f"{version_of('ghost')}/adapter_model.safetensors")
    await world.put("tenants/acme/datasets/half/data-0.jsonl")
    before = await world.keys()

    async def down(*_: object) -> None:
        raise DatabaseUnavailable("as the test wants")

    monkeypatch.setattr(collector, fails, down)
    with pytest.raises(DatabaseUnavailable):
        await collect(world.stores, RULES, dry_run=False)
    assert await world.keys() == before


async def test_time_is_the_databases(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer whose clock is wrong deletes nothing too early."""
    name = await world.failed()
    await world.checkpoint(f"{checkpoints_prefix(name)}/lease-000001/00000002")

    async def long_ago(_: Database) -> datetime:
        return datetime.now(UTC) - timedelta(days=29.5)

    monkeypatch.setattr(collector, "store_time", long_ago)
    assert (await collect(world.stores, RULES, dry_run=False)).removed == {}


async def test_what_is_no_tenants_is_left_alone(world: World) -> None:
    await world.put("tenants/Not A Tenant/datasets/half/data-0.jsonl")
    await world.put("tenants/acme/adapters/Not An Adapter/versions/20260101T000000-x-1/w")
    assert (await collected(world)).removed == {}


def test_of_many_failures_the_first_are_told() -> None:
    tally = Tally()
    for number in range(100):
        tally.failed(str(number), "why")
    assert (len(tally.failures), tally.failure_count) == (MOST_FAILURES, 100)


# ---- what counts against a quota


async def test_a_cache_that_cannot_be_opened_holds_up_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("locked", "open"):
        entry = world.caches / "acme" / name
        entry.mkdir(parents=True)
        then = time.time() - 31 * 86400
        os.utime(entry, (then, then))
    real = os.open

    def refused(path: Any, *flags: Any, **more: Any) -> int:
        if str(path).endswith("/locked"):
            raise PermissionError(errno.EACCES, "no")
        return real(path, *flags, **more)

    monkeypatch.setattr(os, "open", refused)
    tally = Tally()
    await collector.collect_caches(world.stores, RULES, tally, dry_run=False)
    assert tally.removed[Kind.LOCAL_CACHES].things == 1
    assert [path.name for path in (world.caches / "acme").iterdir()] == ["locked"]


async def test_what_counts_with_nothing_behind_it_goes(world: World) -> None:
    name = await world.dataset()
    dataset = await world.datasets.get(name)
    world.age(str(name), 0)
    marks = "tenants/acme/dataset_use"
    right = await world.put(f"{marks}/chats/{dataset.size_bytes}-{dataset.record_count}", b"")
    await world.put(f"{marks}/chats/999-9", b"")
    await world.put(f"{marks}/gone/1-1", b"")
    new = await world.put(f"{marks}/new/1-1", b"", days=0.5)
    found = await collected(world)
    assert found.removed == {Kind.ABANDONED_UPLOADS: Count(things=2, objects=2, bytes=0)}
    assert await world.keys(marks) == [right, new]


async def test_a_dataset_that_does_not_tell_holds_up_no_other_mark(world: World) -> None:
    marks = "tenants/acme/dataset_use"
    await world.put("tenants/acme/datasets/broken/meta.json", b"{", days=0)
    await world.put("tenants/acme/datasets/cut/data-0.jsonl", days=0)
    kept = [
        await world.put(f"{marks}/{dataset}/{figures}", b"")
        for dataset in ("broken", "cut")
        for figures in ("1-1", "2-2")
    ]
    await world.put(f"{marks}/gone/1-1", b"")
    found = await collected(world)
    assert found.failures == ()
    assert await world.keys(marks) == kept


async def test_one_mark_of_a_dataset_costs_no_read(world: World) -> None:
    await world.put("tenants/acme/datasets/broken/meta.json", b"{", days=0)
    await world.put("tenants/acme/dataset_use/broken/1-1", b"")
    found = await collected(world)
    assert (found.removed, found.failures) == ({}, ())


# ---- what a killed process was writing


async def test_what_was_half_written_into_a_folder_goes(world: World) -> None:
    kept = await world.put("tenants/acme/datasets/chats/data-0.jsonl", days=0)
    folder = world.folder / "tenants" / "acme"
    for name, days in (("old#1", 2), ("new#12", 0.5), ("note#x", 9), ("#1", 9)):
        (folder / name).write_bytes(b"half")
        world.age(f"tenants/acme/{name}", days)
    (folder / "link#3").symlink_to(world.folder / kept)
    os.utime(folder / "link#3", (0, 0), follow_symlinks=False)
    (folder / "folder#4").mkdir()
    world.age("tenants/acme/folder#4", 9)
    found = await collected(world)
    assert found.removed == {Kind.PARTIAL_FILES: Count(things=1, objects=1, bytes=4)}
    left = {path.name for path in folder.iterdir()}
    assert left == {"datasets", "new#12", "note#x", "#1", "link#3", "folder#4"}


async def test_a_folder_that_goes_meanwhile_hides_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store's driver deletes a folder with the last object in it."""
    await world.put("tenants/acme/datasets/goes/data-0.jsonl")
    await world.put("tenants/acme/datasets/stays/meta.json", days=0)
    half = world.folder / "tenants/acme/datasets/stays/data-0.jsonl#1"
    half.write_bytes(b"half")
    scan = os.scandir

    def slow(path: str | Path = ".") -> Any:
        if str(path).endswith("/goes"):
            shutil.rmtree(path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", slow)
    found = await asyncio.to_thread(partial_files, world.folder / "tenants/acme")
    assert [file.path for file in found] == [half]


async def test_a_store_that_is_no_folder_has_no_such_files(world: World) -> None:
    await world.put("tenants/acme/datasets/chats/data-0.jsonl", days=0)
    file = world.folder / "tenants" / "acme" / "old#1"
    file.write_bytes(b"half")
    world.age("tenants/acme/old#1", 2)
    stores = replace(world.stores, folder=None)
    found = await collect(stores, RULES, dry_run=False)
    assert (found.removed, found.failures) == ({}, ())
    assert file.exists()
