"""Watchers hear of everything, and cost the job store next to nothing while nothing happens."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from tailorbird.errors import InvalidArgument, ResourceExhausted, Unavailable
from tailorbird.names import JobName
from tests.unit.trainer_svc.values import make_job
from trainer_svc.jobs import watching
from trainer_svc.jobs.database import Database
from trainer_svc.jobs.events import JobEvent, JobWarning
from trainer_svc.jobs.feed import Feed
from trainer_svc.jobs.model import Job, JobState
from trainer_svc.jobs.store import JobStore
from trainer_svc.jobs.tables import events, jobs
from trainer_svc.jobs.watching import Watches

DIGEST = "a" * 64
WARNING = JobWarning(reason="MIND", message="mind")


class Counted:
    """The job store, counting what it is asked; `held` names what waits for `go_on`."""

    def __init__(self, store: JobStore) -> None:
        self.store = store
        self.asked: Counter[str] = Counter()
        self.looked = asyncio.Event()
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.down = self.blind = False

    async def get(self, name: JobName) -> Job:
        self.asked["get"] += 1
        if self.down:
            raise Unavailable("the job store is down")
        return await self.store.get(name)

    async def events(self, name: JobName, after_sequence: int, limit: int) -> list[JobEvent]:
        self.asked["events"] += 1
        found = await self.store.events(name, after_sequence, limit)
        self.begun.set()
        await self.go_on.wait()
        return found

    async def last_sequence(self, name: JobName) -> int:
        return await self.store.last_sequence(name)

    async def last_sequences(self, names: Sequence[JobName]) -> dict[JobName, int]:
        self.looked.set()
        if self.down:
            raise Unavailable("the job store is down")
        return dict.fromkeys(names, 0) if self.blind else await self.store.last_sequences(names)


class World:
    """Two replicas on one database; callers watch at the first."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.here, self.there = JobStore(database, Feed()), JobStore(database, Feed())
        self.feed = self.here._feed
        self.counted = Counted(self.here)
        self.watches = Watches(self.counted, self.feed)
        self.seen: list[list[int]] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.changed = asyncio.Condition()

    def watch(self, job: JobName, after: int = 0) -> asyncio.Task[None]:
        found: list[int] = []
        self.seen.append(found)
        task = asyncio.create_task(self._watch(job, after, found))
        self.tasks.append(task)
        return task

    async def _watch(self, job: JobName, after: int, found: list[int]) -> None:
        async with aclosing(self.watches.events(job, after)) as stream:
            async for event in stream:
                found.append(event.sequence)
                async with self.changed:
                    self.changed.notify_all()

    async def until(self, *seen: list[int]) -> None:
        async with asyncio.timeout(30), self.changed:
            await self.changed.wait_for(lambda: self.seen == list(seen))

    async def looked(self) -> None:
        """Wait for a look that begins and ends from here on."""
        for _ in range(2):
            self.counted.looked.clear()
            async with asyncio.timeout(30):
                await self.counted.looked.wait()


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(watching, "_POLL_SECONDS", 0.01)
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/jobs.db")
    await database.migrate()
    world = World(database)
    yield world
    world.counted.go_on.set()
    for task in world.tasks:
        task.cancel()
    await asyncio.gather(*world.tasks, return_exceptions=True)
    # What nobody waits for any more ends by itself.
    if others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)
    await database.close()


async def made(store: JobStore, job: str = "one") -> JobName:
    return (await store.create(make_job(job), "", DIGEST)).name


async def test_watchers_of_what_does_not_change_ask_nothing(world: World) -> None:
    names = [await made(world.here, f"job-{number}") for number in range(4)]
    for name in names:
        for _ in range(5):
            world.watch(name)
    await world.until(*[[1]] * 20)
    await world.looked()
    before = world.counted.asked.copy()
    await world.looked()
    assert world.counted.asked == before


async def test_a_tenant_has_so_many_watches_at_a_time_and_keeps_none_from_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_MOST_OF_A_TENANT", 3)
    one, two = await made(world.here), await made(world.here, "two")
    theirs = (await world.here.create(make_job("one", "globex"), "", DIGEST)).name
    first, *_ = [world.watch(name) for name in (one, one, two)]
    await world.until([1], [1], [1])
    with pytest.raises(ResourceExhausted, match="at most 3") as caught:
        await anext(world.watches.events(two, 0))
    assert caught.value.reason == "TOO_MANY_WATCHES"
    world.watch(theirs)
    await world.until([1], [1], [1], [1])
    first.cancel()
    await asyncio.wait({first})
    world.watch(two)
    await world.until([1], [1], [1], [1], [1])


async def test_what_another_replica_writes_is_heard(world: World) -> None:
    name, other = await made(world.here), await made(world.here, "two")
    world.watch(name)
    world.watch(other)
    await world.until([1], [1])
    found = await world.there.claim("there", lambda job: job.name == name)
    assert found is not None
    await world.there.record(found[0].write(), WARNING)
    await world.until([1, 2, 3], [1])


async def test_watchers_who_are_at_the_same_place_read_together(world: World) -> None:
    name = await made(world.here)
    for _ in range(20):
        world.watch(name)
    await world.until(*[[1]] * 20)
    await world.looked()
    before = world.counted.asked["events"]
    assert await world.here.claim("here") is not None
    await world.until(*[[1, 2]] * 20)
    await world.looked()
    # A look may find the same change.
    assert world.counted.asked["events"] - before <= 4


async def test_a_read_that_has_begun_is_too_early_for_who_comes_later(world: World) -> None:
    world.counted.blind = True
    name = await made(world.here)
    world.counted.go_on.clear()
    world.watch(name)
    await world.counted.begun.wait()
    # The first has read by now, and has no answer yet.
    assert await world.here.claim("here") is not None
    world.counted.begun.clear()
    world.watch(name)
    async with asyncio.timeout(30):
        await world.counted.begun.wait()
    world.counted.go_on.set()
    await world.until([1, 2], [1, 2])


async def test_one_that_leaves_takes_nobody_s_read_along(world: World) -> None:
    name = await made(world.here)
    first = world.watch(name)
    world.watch(name)
    await world.until([1], [1])
    await world.looked()
    world.counted.go_on.clear()
    world.counted.begun.clear()
    assert await world.here.claim("here") is not None
    await world.counted.begun.wait()
    first.cancel()
    await asyncio.wait({first})
    world.counted.go_on.set()
    await world.until([1], [1, 2])


async def test_one_that_leaves_is_not_missed_by_the_others(world: World) -> None:
    name = await made(world.here)
    first = world.watch(name)
    world.watch(name)
    await world.until([1], [1])
    first.cancel()
    await asyncio.wait({first})
    found = await world.there.claim("there")
    assert found is not None
    await world.until([1], [1, 2])


async def test_a_job_store_that_is_down_is_told_to_every_watcher(world: World) -> None:
    name = await made(world.here)
    tasks = [world.watch(name), world.watch(name)]
    await world.until([1], [1])
    world.counted.down = True
    async with asyncio.timeout(30):
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(error) for error in ended] == ["the job store is down"] * 2


async def test_however_many_watch_one_looks_for_all(world: World) -> None:
    world.watch(await made(world.here))
    await world.until([1])
    looking = world.watches._looking
    world.watch(await made(world.here, "two"))
    await world.until([1], [1])
    assert world.watches._looking is looking


async def test_nothing_is_looked_for_when_nobody_watches(world: World) -> None:
    name = await made(world.here)
    task = world.watch(name)
    await world.until([1])
    looking = world.watches._looking
    assert looking is not None
    task.cancel()
    await asyncio.wait({task, looking})
    assert not world.watches._open
    world.watch(name)
    await world.until([1], [1])
    await world.looked()


async def test_a_job_that_ends_while_it_is_read_has_no_more_to_wait_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.counted.blind = True
    name = await made(world.here)

    async def before_its_end(name: JobName) -> Job:
        job = await world.here.get(name)
        await world.there.request_cancel(name)
        return job

    monkeypatch.setattr(world.counted, "get", before_its_end)
    async with asyncio.timeout(10):
        await world.watch(name)
    assert len(world.seen[0]) == (await world.here.last_sequence(name)) > 1


@pytest.mark.parametrize("after", [-1, 2])
async def test_nothing_is_watched_from_where_a_job_has_not_been(world: World, after: int) -> None:
    name = await made(world.here)
    with pytest.raises(InvalidArgument, match=f"{after} is not between 0 and 1") as caught:
        await anext(world.watches.events(name, after))
    assert caught.value.field == "after_sequence"
    assert not world.watches._open


async def test_a_history_of_many_reads_whose_end_nobody_understands_ends(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_EVENTS_PER_READ", 2)
    name = await made(world.here)
    world.watch(name)
    await world.until([1])
    later = [WARNING.model_dump(mode="json")] * 4 + [{"kind": "of_a_later_release"}]
    rows = [
        {
            "tenant": name.tenant,
            "job": name.job,
            "sequence": number,
            "time": datetime.now(UTC),
            "payload": payload,
        }
        for number, payload in enumerate(later, start=2)
    ]
    async with world.database.write() as connection:
        await connection.execute(sa.insert(events), rows)
        await connection.execute(
            sa.update(jobs).values(state=JobState.SUCCEEDED, last_sequence=len(rows) + 1)
        )
    async with asyncio.timeout(30):
        await asyncio.gather(*world.tasks)
    assert world.seen == [[1, 2, 3, 4, 5]]
