"""python -m bench.jobs.child URL: a trainer's share of the work on a job store, in a process.

It answers each line of JSON on its input, {"do": NAME, ...}, with a line of JSON. Times are in
seconds of the machine's monotonic clock, which all its processes share.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque
from typing import Any

from trainer_svc.jobs.database import Database
from trainer_svc.jobs.events import StepProgress
from trainer_svc.jobs.feed import Feed
from trainer_svc.jobs.fence import Lease
from trainer_svc.jobs.model import Job
from trainer_svc.jobs.store import JobStore

_UNTIMED = 5
"""First claims, in which statements are prepared and connections made."""


class Share:
    """One trainer at work."""

    def __init__(self, url: str, owner: str) -> None:
        self.database = Database(url)
        self._store = JobStore(self.database, Feed())
        self._owner = owner
        self._leases: deque[Lease] = deque()

    async def claims(self, count: int, held: int) -> dict[str, Any]:
        """Claim so many jobs, ending the oldest of more than `held`, with a heartbeat for each."""
        seconds, beats = [], []
        for number in range(-held - _UNTIMED, count):
            began = time.monotonic()
            await self._claim()
            if number >= 0:
                seconds.append(time.monotonic() - began)
            if len(self._leases) > held:
                await self._store.cancelled(self._leases.popleft().write())
                began = time.monotonic()
                kept = await self._store.keep_leases(self._owner)
                beats.append(time.monotonic() - began)
                if len(kept) != held:
                    raise RuntimeError(f"{len(kept)} leases were kept, not {held}")
        return {"claims": seconds, "heartbeats": beats}

    async def no_room(self, count: int) -> dict[str, Any]:
        """Look at the queue for a worker that no job fits, as a trainer of two bases does."""
        seconds = []
        for _ in range(count):
            passed: set[tuple[str, str]] = set()

            def fits(job: Job, passed: set[tuple[str, str]] = passed) -> bool:
                passed.add((job.spec.base_model, job.spec.base_model_digest))
                return False

            began = time.monotonic()
            await self._store.claim(self._owner, fits, passed=passed)
            seconds.append(time.monotonic() - began)
        return {"looks": seconds}

    async def begin(self, count: int) -> dict[str, Any]:
        """Let go of all leases and claim others; return these jobs and their newest events."""
        while self._leases:
            await self._store.cancelled(self._leases.popleft().write())
        for _ in range(count):
            await self._claim()
        return {
            "jobs": [
                (lease.job.tenant, lease.job.job, await self._store.last_sequence(lease.job))
                for lease in self._leases
            ]
        }

    async def record(self, count: int, pause: float) -> dict[str, Any]:
        """Record events of the jobs in turn; return when each was begun, by job."""
        begun: dict[str, list[float]] = {lease.job.job: [] for lease in self._leases}
        for step in range(count):
            lease = self._leases[step % len(self._leases)]
            begun[lease.job.job].append(time.monotonic())
            progress = StepProgress(
                step=step + 1,
                total_steps=count,
                epoch=step / count,
                loss=1.0,
                learning_rate=1e-3,
                gradient_norm=1.0,
                tokens=512,
                tokens_per_second=1000.0,
                eta_seconds=60.0,
            )
            await self._store.record(lease.write(), progress)
            await asyncio.sleep(pause)
        return {"begun": begun}

    async def _claim(self) -> None:
        names = {lease.job for lease in self._leases}
        found = await self._store.claim(self._owner, avoid=names, passed=set())
        if found is None:
            raise RuntimeError("nothing is left in the queue")
        self._leases.append(found[0])


async def _serve(url: str, owner: str) -> None:
    share = Share(url, owner)
    try:
        while line := await asyncio.to_thread(sys.stdin.readline):
            told = json.loads(line)
            answer = await getattr(share, told.pop("do"))(**told)
            print(json.dumps(answer), flush=True)
    finally:
        await share.database.close()


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
