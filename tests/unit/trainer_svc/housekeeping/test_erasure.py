"""A tenant is forgotten: with stores that fail at every step, and serving that must obey."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tailorbird.errors import Aborted, FailedPrecondition, NotFound, StoreUnavailable
from tailorbird.names import AdapterName, JobName, TenantName, VersionName
from tailorbird.registry import AdapterRegistry
from tailorbird.routes import Route
from tests.unit.trainer_svc.housekeeping.world import ADAPTER, World, version_of
from tests.unit.trainer_svc.values import make_manifest
from trainer_svc.checkpoints import checkpoints_prefix
from trainer_svc.housekeeping import erasure
from trainer_svc.housekeeping.erased import Erasure, forget_erased
from trainer_svc.housekeeping.erasure import ERASURE, Asked, erase
from trainer_svc.housekeeping.model import Count, Kind, Tally
from trainer_svc.jobs.database import Database, DatabaseUnavailable
from trainer_svc.jobs.housekeeping import delete_job
from trainer_svc.jobs.model import JobError, JobState
from trainer_svc.jobs.publication import Outcome, Publication
from trainer_svc.jobs.tables import jobs

ACME = TenantName("acme")
ASKED = Asked(ACME, cancel_jobs=False, patience=0.0)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "_LOOK_SECONDS", 0.001)


async def full(world: World, tenant: str = "acme") -> None:
    """Put something of every kind into the world for a tenant."""
    name = await world.failed("one", tenant)
    await world.checkpoint(f"{checkpoints_prefix(name)}/lease-000001/00000002")
    await world.failed("two", tenant)
    adapter = replace(ADAPTER, tenant=tenant)
    for generation, job in enumerate(("one", "two"), 1):
        version = await world.published(job, adapter)
        await world.route(version, generation)
    await world.put(f"{version_of('ghost', adapter=adapter)}/adapter_model.safetensors")
    await world.dataset("chats", tenant)
    await world.put(f"tenants/{tenant}/deleted_datasets/old/index-0.bin")
    await world.put(f"tenants/{tenant}/feedback/20260101/voice/{'0' * 32}.json")
    await world.put(f"tenants/{tenant}/later/thing/file")
    await world.put(f"tenants/{tenant}/notes.txt")
    (world.folder / f"tenants/{tenant}/datasets/chats/data-9.jsonl#7").write_bytes(b"half")
    entry = world.caches / tenant / "tokens"
    entry.mkdir(parents=True)
    (entry / "file").write_bytes(b"12345")


LEFT = [
    f"{ADAPTER}/routes/000000000003.json",
    *(f"{version_of(job)}/tombstone.json" for job in ("ghost", "one", "two")),
]


async def check_gone(world: World) -> None:
    assert await world.keys("tenants/acme") == LEFT
    assert await world.jobs.page(ACME, limit=9) == []
    assert await world.jobs.events(JobName("acme", "one"), 0, 9) == []
    assert not list((world.caches / "acme").iterdir())
    assert not list((world.folder / "tenants" / "acme").rglob("*#*"))


async def test_everything_of_the_tenant_goes_and_nothing_of_another(world: World) -> None:
    await full(world)
    await full(world, "globex")
    theirs = await world.keys("tenants/globex")
    found = await erase(world.stores, ASKED)
    await check_gone(world)
    assert await world.keys("tenants/globex") == theirs
    assert len(await world.jobs.page(TenantName("globex"), limit=9)) == 2
    assert list((world.caches / "globex").iterdir())
    assert list((world.folder / "tenants" / "globex").rglob("*#7"))
    assert {kind: (count.things, count.objects) for kind, count in found.removed.items()} == {
        # Two versions of three files, one of one; two routes of which the erasure's own is newer.
        Kind.ADAPTERS: (1, 9),
        Kind.DATASETS: (2, 4),
        Kind.FEEDBACK: (1, 1),
        Kind.CHECKPOINTS: (1, 2),
        Kind.OTHER: (2, 2),
        Kind.PARTIAL_FILES: (1, 1),
        Kind.ENDED_JOBS: (2, 8),
        Kind.LOCAL_CACHES: (1, 1),
    }
    assert (found.tombstones, found.routes, found.tries) == (3, 1, 1)
    assert found.end_time is not None


async def test_nothing_of_it_is_left_in_the_job_stores_files(world: World, tmp_path: Path) -> None:
    words = "a sentence of a customer's"
    lease = await world.leased("one")
    await world.jobs.fail(lease.write(), JobError(reason="X", message=words))

    def files() -> bytes:
        return b"".join(path.read_bytes() for path in tmp_path.glob("jobs.db*"))

    assert words.encode() in files()
    await erase(world.stores, ASKED)
    assert words.encode() not in files()


async def test_a_job_store_that_is_read_for_long_is_told(world: World, tmp_path: Path) -> None:
    await full(world)
    impatient = Database(f"sqlite+aiosqlite:///{tmp_path}/jobs.db")

    def connected(connection: Any, _: object) -> None:
        connection.execute("PRAGMA busy_timeout=0")

    sa.event.listen(impatient._engine.sync_engine, "connect", connected)
    try:
        async with world.database.read() as connection:
            await connection.execute(sa.select(jobs))
            with pytest.raises(DatabaseUnavailable, match="is read by somebody for long"):
                await erase(replace(world.stores, database=impatient), ASKED)
    finally:
        await impatient.close()
    assert (await erase(world.stores, ASKED)).tries == 2
    await check_gone(world)


async def test_rows_that_somebody_else_deletes_first_are_no_fault(
    world: World, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await full(world)
    delete = delete_job

    async def slower(database: Database, name: JobName) -> int:
        await delete(database, name)
        return await delete(database, name)

    monkeypatch.setattr(erasure, "delete_job", slower)
    found = await erase(world.stores, ASKED)
    await check_gone(world)
    assert Kind.ENDED_JOBS not in found.removed


async def test_no_replica_finds_anything_to_serve(world: World) -> None:
    await full(world)
    known = await world.registry.head(ADAPTER)
    assert known is not None
    await erase(world.stores, ASKED)
    head = await world.registry.head(ADAPTER, known)
    assert head is not None
    # A replica that knows the route before asks for the next one, and finds it.
    assert (head.generation, head.actor) == (known.generation + 1, ERASURE)
    assert [route async for route in world.registry.earlier(ADAPTER, head.generation)] == []
    for version in (head.version, *(route.version for route in known.versions)):
        with pytest.raises(NotFound) as raised:
            await world.registry.check_present(ADAPTER.version(version))
        assert raised.value.reason == "VERSION_DELETED"
    assert not await world.registry.has_version(ADAPTER)


async def test_a_tenant_that_comes_back_goes_on_after_the_erasure(world: World) -> None:
    await full(world)
    first = await erase(world.stores, ASKED)
    head = await world.registry.head(ADAPTER)
    version = version_of("later")
    await world.route(version, await world.registry.next_generation(ADAPTER, head))
    newest = await world.registry.head(ADAPTER)
    assert newest is not None
    assert newest.generation == 4
    again = await erase(world.stores, ASKED)
    # What the first one removed is not forgotten, though it had come to its end.
    assert (again.tries, again.begin_time) == (2, first.begin_time)
    expected = {kind: (count.things, count.objects) for kind, count in first.removed.items()}
    expected[Kind.ADAPTERS] = 2, 11
    found = {kind: (count.things, count.objects) for kind, count in again.removed.items()}
    assert found == expected
    stored = await world.objects.get("housekeeping/erased/acme.json")
    assert Erasure.model_validate_json(stored) == again
    with pytest.raises(NotFound):
        await world.registry.check_not_deleted(VersionName.parse(version))


async def test_an_erasure_done_again_removes_nothing(world: World) -> None:
    await full(world)
    first = await erase(world.stores, ASKED)
    again = await erase(world.stores, ASKED)
    assert again == first.model_copy(update={"tries": 2, "end_time": again.end_time})
    await check_gone(world)


async def test_a_tenant_without_anything_is_erased(world: World) -> None:
    found = await erase(world.stores, ASKED)
    assert (found.removed, found.tombstones, found.routes) == ({}, 0, 0)


async def test_an_adapter_that_was_never_routed_gets_no_route(world: World) -> None:
    version = await world.published()
    found = await erase(world.stores, ASKED)
    assert (found.tombstones, found.routes) == (1, 0)
    assert await world.keys("tenants") == [f"{version}/tombstone.json"]


async def test_jobs_that_have_not_ended_keep_everything(world: World) -> None:
    await full(world)
    for number in range(7):
        await world.job(f"open-{number}")
    before = await world.keys("")
    with pytest.raises(FailedPrecondition) as raised:
        await erase(world.stores, ASKED)
    assert raised.value.reason == "JOBS_NOT_ENDED"
    assert raised.value.metadata == {"jobs": "7"}
    assert "tenants/acme/jobs/open-4 and 2 more; cancel them" in raised.value.message
    assert await world.keys("") == before


async def test_jobs_are_cancelled_where_that_is_asked_for(world: World) -> None:
    await full(world)
    await world.job("queued")
    other = await world.job("queued", "globex")
    found = await erase(world.stores, replace(ASKED, cancel_jobs=True))
    assert found.removed[Kind.ENDED_JOBS].things == 3
    assert (await world.jobs.get(other)).state is JobState.QUEUED
    await check_gone(world)


async def test_a_job_in_work_is_waited_for(world: World) -> None:
    lease = await world.leased()
    asked = replace(ASKED, cancel_jobs=True)
    with pytest.raises(FailedPrecondition) as raised:
        await erase(world.stores, asked)
    assert "they are being cancelled; try again" in raised.value.message
    going = asyncio.create_task(erase(world.stores, replace(asked, patience=60.0)))
    # Its worker lets go.
    await world.jobs.cancelled(lease.write())
    assert (await going).removed[Kind.ENDED_JOBS].things == 1


async def test_a_job_whose_version_is_committed_ends_first(world: World) -> None:
    lease, version = await world.uploading()
    publication = Publication(manifest=make_manifest(version), route=None)
    await world.jobs.commit(lease.write(), publication)
    asked = replace(ASKED, cancel_jobs=True, patience=60.0)
    going = asyncio.create_task(erase(world.stores, asked))
    await world.jobs.succeed(lease.write(), publication, Outcome(promoted=False))
    await going
    assert await world.keys("tenants") == [f"{version}/tombstone.json"]


class Failing:
    """An object store that fails at one call that changes it: before it, or after it was made."""

    def __init__(self, store: Any, at: int, *, after: bool) -> None:
        self._store = store
        self.left = at
        self._after = after

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name not in {"put", "create", "delete"}:
            return found

        async def call(*args: Any) -> Any:
            self.left -= 1
            if self.left:
                return await found(*args)
            if self._after:
                await found(*args)
            raise StoreUnavailable("as the test wants")

        return call


@pytest.mark.parametrize("after", [False, True])
async def test_it_may_be_begun_again_wherever_the_object_store_failed(
    world: World, tmp_path: Path, database: Database, after: bool
) -> None:
    await full(world)
    tried = 0
    while True:
        tried += 1
        failing = Failing(world.objects, tried, after=after)
        try:
            found = await erase(replace(world.stores, objects=failing), ASKED)
        except StoreUnavailable:
            continue
        break
    assert tried > 5
    await check_gone(world)
    assert found.removed[Kind.ENDED_JOBS] == Count(things=2, objects=8)
    assert found.tries >= tried - 1


async def test_it_may_be_begun_again_wherever_the_job_store_failed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await full(world)
    left = 0

    def failing(name: str) -> Callable[..., Awaitable[Any]]:
        found: Callable[..., Awaitable[Any]] = getattr(erasure, name)

        async def call(*args: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise DatabaseUnavailable("as the test wants")
            return await found(*args)

        return call

    for name in ("open_jobs", "ended_jobs", "delete_job", "store_time"):
        monkeypatch.setattr(erasure, name, failing(name))
    for tried in range(1, 99):
        left = tried
        try:
            found = await erase(world.stores, ASKED)
        except DatabaseUnavailable:
            continue
        break
    assert tried > 5
    await check_gone(world)
    # Together, over all tries.
    assert found.removed[Kind.ENDED_JOBS] == Count(things=2, objects=8)
    assert found.removed[Kind.DATASETS].things == 2


@pytest.mark.parametrize("what", ["job", "object", "objects"])
async def test_what_comes_meanwhile_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    await full(world)
    name = "delete_all" if what == "objects" else "ended_jobs"
    real: Callable[..., Awaitable[Any]] = getattr(erasure, name)
    number = 0

    async def meanwhile(*args: Any) -> Any:
        nonlocal number
        number += 1
        if what == "job" and number == 1:
            await world.job("new")
        elif what != "job" and (number == 1 or what == "objects"):
            await world.put(f"tenants/acme/feedback/20260102/voice/{number:032x}.json")
        return await real(*args)

    monkeypatch.setattr(erasure, name, meanwhile)
    with pytest.raises(Aborted) as raised:
        await erase(world.stores, ASKED)
    assert raised.value.reason == "STILL_WRITTEN"
    assert "take its tokens away, and try again" in raised.value.message
    monkeypatch.setattr(erasure, name, real)
    await erase(world.stores, replace(ASKED, cancel_jobs=True))
    await check_gone(world)


async def test_a_route_written_meanwhile_is_followed_by_the_erasures(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await full(world)
    late = version_of("late")
    real = AdapterRegistry.append_route
    raced = False

    async def append_route(self: AdapterRegistry, adapter: AdapterName, route: Route) -> None:
        nonlocal raced
        if not raced:
            raced = True
            await world.route(late, route.generation)
        await real(self, adapter, route)

    monkeypatch.setattr(AdapterRegistry, "append_route", append_route)
    await erase(world.stores, ASKED)
    head = await world.registry.head(ADAPTER)
    assert head is not None
    assert (head.generation, head.actor) == (4, ERASURE)
    with pytest.raises(NotFound):
        await world.registry.check_not_deleted(VersionName.parse(late))


# ---- other trainers' caches


def cached(world: World, tenant: str, days: float) -> Path:
    folder = world.caches / tenant / f"entry-{days}"
    folder.mkdir(parents=True)
    then = time.time() - days * 86400
    os.utime(folder, (then, then))
    return folder


async def test_every_trainer_forgets_what_it_cached_of_an_erased_tenant(world: World) -> None:
    await full(world)
    await erase(world.stores, ASKED)
    other = replace(world.stores, caches=world.caches.parent / "other")
    elsewhere = World(world.folder.parent, world.database)
    elsewhere.caches = other.caches
    before = cached(elsewhere, "acme", 3)
    theirs = cached(elsewhere, "globex", 3)
    # The tenant has come back since.
    after = cached(elsewhere, "acme", -2)
    tally = Tally()
    await forget_erased(other, tally)
    assert [folder.exists() for folder in (before, theirs, after)] == [False, True, True]
    assert tally.removed[Kind.LOCAL_CACHES].things == 1


async def test_what_cannot_be_deleted_here_is_not_told_as_gone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await full(world)
    with monkeypatch.context() as read_only:
        read_only.setattr(shutil, "rmtree", lambda *_, **__: None)
        found = await erase(world.stores, ASKED)
    assert list((world.caches / "acme").iterdir())
    assert Kind.LOCAL_CACHES not in found.removed
    tally = Tally()
    await forget_erased(world.stores, tally)
    assert tally.removed == {Kind.LOCAL_CACHES: Count(things=1, objects=1, bytes=5)}


async def test_what_is_no_erasure_is_passed_over(world: World) -> None:
    kept = cached(world, "acme", 3)
    await world.put("housekeeping/erased/..%2Facme.json")
    await world.put("housekeeping/erased/acme/x.json")
    await forget_erased(world.stores, Tally())
    assert kept.exists()


async def test_a_record_that_cannot_be_read_is_begun_anew(world: World) -> None:
    await full(world)
    await world.put("housekeeping/erased/acme.json", b"{")
    assert (await erase(world.stores, ASKED)).tries == 1
    stored = await world.objects.get("housekeeping/erased/acme.json")
    assert Erasure.model_validate_json(stored).end_time is not None


async def test_while_a_later_one_is_under_way_the_earlier_s_end_does_not_stand(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await full(world)
    first = await erase(world.stores, ASKED)

    async def failing(database: Database) -> None:
        raise DatabaseUnavailable("as the test wants")

    with monkeypatch.context() as broken:
        broken.setattr(Database, "scrub", failing)
        with pytest.raises(DatabaseUnavailable):
            await erase(world.stores, ASKED)
    stored = await world.objects.get("housekeeping/erased/acme.json")
    assert Erasure.model_validate_json(stored) == first.model_copy(
        update={"tries": 2, "end_time": None}
    )


async def test_what_an_interrupted_one_removed_is_known(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await full(world)
    removed = asyncio.Event()

    async def never(database: Database) -> None:
        removed.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as hanging:
        hanging.setattr(Database, "scrub", never)
        erasing = asyncio.create_task(erase(world.stores, ASKED))
        await removed.wait()
        erasing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await erasing
    found = await erase(world.stores, ASKED)
    assert (found.tries, found.removed[Kind.ENDED_JOBS].things) == (2, 2)
