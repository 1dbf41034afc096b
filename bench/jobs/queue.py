"""The job store under two trainers: claims, pages, creates, and events on their way to watchers."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.jobs.filling import fill, queued_job, tenant_of
from bench.jobs.postgresql import facts, postgresql
from bench.jobs.sizes import Sizes
from bench.serving.environment import common_environment
from bench.serving.processes import BenchFailed, LineChild, Process
from bench.serving.targets import say
from tailorbird.names import JobName, TenantName
from trainer_svc.jobs.database import Database
from trainer_svc.jobs.feed import Feed
from trainer_svc.jobs.limits import TenantLimits
from trainer_svc.jobs.store import JobStore
from trainer_svc.jobs.watching import Watches

_LIMIT_SECONDS = 600.0
_QUIET_SECONDS = 2.0
_DIGEST = "0" * 64


@dataclass
class Measured:
    """Seconds of each single thing."""

    claims: list[float] = field(default_factory=list)
    heartbeats: list[float] = field(default_factory=list)
    looks: list[float] = field(default_factory=list)
    """At the queue, that found no job with room."""
    first_pages: list[float] = field(default_factory=list)
    later_pages: list[float] = field(default_factory=list)
    creates: list[float] = field(default_factory=list)
    to_watcher: list[float] = field(default_factory=list)
    """From the call that records an event until a watcher at another trainer has it."""
    filling: float = 0.0
    server: dict[str, str] = field(default_factory=dict)


def measure(work: Path, sizes: Sizes) -> Measured:
    """Run everything once on a new database; BenchFailed."""
    with postgresql(work) as url, _trainers(work, url) as trainers:
        return asyncio.run(_measured(url, trainers, sizes))


@contextmanager
def _trainers(work: Path, url: str) -> Iterator[list[LineChild]]:
    logs = work / "logs"
    logs.mkdir()
    environment = common_environment()
    # What it preloads is for engines.
    environment.pop("LD_PRELOAD", None)
    children: list[LineChild] = []
    try:
        for owner in ("one", "two"):
            arguments = ("-m", "bench.jobs.child", url, owner)
            process = Process(owner, arguments, environment, logs / f"{owner}.log", piped=True)
            children.append(LineChild(process))
        yield children
    finally:
        for child in children:
            child.stop()


async def _measured(url: str, trainers: list[LineChild], sizes: Sizes) -> Measured:
    database = Database(url)
    feed = Feed()
    store = JobStore(database, feed, limits=TenantLimits(queued={"*": 1000}))
    listening = asyncio.create_task(
        database.notices(lambda job, _: feed.publish(job), feed.publish_all).run()
    )
    try:
        await database.migrate()
        measured = Measured(server=await facts(url))
        say(f"{sizes.queued} queued and {sizes.ended} ended jobs of {sizes.tenants} tenants")
        began = time.monotonic()
        await fill(database, sizes)
        measured.filling = time.monotonic() - began
        say("claims of two trainers at once")
        asked = {"do": "claims", "count": sizes.claims, "held": sizes.held}
        for told in await asyncio.gather(*(_ask(each, asked) for each in trainers)):
            measured.claims += told["claims"]
            measured.heartbeats += told["heartbeats"]
        measured.looks = (await _ask(trainers[0], {"do": "no_room", "count": 20}))["looks"]
        say("pages, new jobs, events on their way to watchers")
        await _pages(store, sizes, measured)
        await _creates(store, sizes, measured)
        measured.to_watcher = await _to_watcher(store, feed, trainers[1], sizes)
        return measured
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await database.close()


async def _ask(trainer: LineChild, asked: dict[str, Any]) -> dict[str, Any]:
    trainer.send(json.dumps(asked))
    return await asyncio.to_thread(trainer.receive, _LIMIT_SECONDS)


async def _pages(store: JobStore, sizes: Sizes, measured: Measured) -> None:
    draw = random.Random(1)
    for _ in range(sizes.pages):
        tenant, after = TenantName(tenant_of(draw.randrange(sizes.tenants))), None
        for seconds in (measured.first_pages, measured.later_pages):
            began = time.monotonic()
            found = await store.page(tenant, limit=sizes.page, after=after)
            seconds.append(time.monotonic() - began)
            if len(found) < sizes.page:
                break
            after = found[-1].create_time, found[-1].name.job


async def _creates(store: JobStore, sizes: Sizes, measured: Measured) -> None:
    for number in range(sizes.creates):
        job = queued_job(tenant_of(number % sizes.tenants), f"new-{number}", datetime.now(UTC))
        began = time.monotonic()
        await store.create(job, f"request-{number}", _DIGEST)
        measured.creates.append(time.monotonic() - began)


async def _to_watcher(store: JobStore, feed: Feed, trainer: LineChild, sizes: Sizes) -> list[float]:
    """Watch jobs here while another process records their events, and compare the times."""
    jobs = (await _ask(trainer, {"do": "begin", "count": sizes.watched}))["jobs"]
    watches = Watches(store, feed)
    seen: dict[str, list[float]] = {}
    watching = [
        asyncio.create_task(_watch(watches, JobName(tenant, job), last, seen))
        for tenant, job, last in jobs
    ]
    # The watches are open, and no event is older than they.
    await asyncio.sleep(_QUIET_SECONDS)
    asked = {"do": "record", "count": sizes.events, "pause": sizes.event_pause}
    begun = (await _ask(trainer, asked))["begun"]
    await asyncio.sleep(_QUIET_SECONDS)
    for task in watching:
        task.cancel()
    await asyncio.gather(*watching, return_exceptions=True)
    if any(len(times) != len(seen[job]) for job, times in begun.items()):
        raise BenchFailed("a watcher missed events, or saw some twice")
    return [
        at - began
        for job, times in begun.items()
        for began, at in zip(times, seen[job], strict=True)
    ]


async def _watch(watches: Watches, job: JobName, after: int, seen: dict[str, list[float]]) -> None:
    times = seen.setdefault(job.job, [])
    async for _ in watches.events(job, after):
        times.append(time.monotonic())
