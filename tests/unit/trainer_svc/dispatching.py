"""A dispatcher under test: run until the test ends, and waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tailorbird.names import JobName
from trainer_svc.dispatch.dispatcher import Dispatcher
from trainer_svc.jobs.events import StateChanged
from trainer_svc.jobs.model import TERMINAL, Job, JobState
from trainer_svc.jobs.store import JobStore

Make = Callable[..., Dispatcher]


@asynccontextmanager
async def running(dispatcher: Dispatcher) -> AsyncIterator[None]:
    task = asyncio.create_task(dispatcher.run())
    try:
        yield
        await dispatcher.stop()
        await task
    finally:
        task.cancel()


async def ended(jobs: JobStore, name: JobName, *more: JobState) -> Job:
    async with asyncio.timeout(20):
        with jobs._feed.subscribe(name) as changed:
            while (job := await jobs.get(name)).state not in {*TERMINAL, *more}:
                await changed.wait()
                changed.clear()
    return job


async def states(jobs: JobStore, name: JobName) -> list[str]:
    events = await jobs.events(name, 0, 1000)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    return [e.payload.state.value for e in events if isinstance(e.payload, StateChanged)]
