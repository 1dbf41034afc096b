"""Takes jobs from the queue and places each on a worker, where a `Runner` sees to it.

One task serves the queue; `Workers` has one for each worker, which takes what it says to the leases
it has; each lease has a task of its own. None of them waits for another's job.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
import uuid
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import structlog

from tailorbird.errors import LeaseLost, Unavailable
from tailorbird.names import JobName
from tailorbird.registry import AdapterRegistry
from trainer_svc.bases import BaseModels
from trainer_svc.datasets.store import DatasetStore
from trainer_svc.dispatch.assignment import Assignments, key_of
from trainer_svc.dispatch.backoff import Pauses, insist, pause_after
from trainer_svc.dispatch.executor import Executor
from trainer_svc.dispatch.losses import Losses
from trainer_svc.dispatch.place import Place
from trainer_svc.dispatch.placement import Look, Placement, Rules, slots_of
from trainer_svc.dispatch.publisher import Publisher
from trainer_svc.dispatch.runner import Ending, Runner
from trainer_svc.dispatch.waiting import first, wait
from trainer_svc.dispatch.workers import Workers
from trainer_svc.jobs.fence import Lease
from trainer_svc.jobs.model import Isolation, Job, JobState, Left
from trainer_svc.jobs.publication import Publication
from trainer_svc.jobs.store import JobStore
from trainer_svc.metrics import TrainerMetrics

_log = structlog.get_logger(__name__)

_T = TypeVar("_T")


class Dispatcher:
    """Keeps `workers` workers busy, each with up to `jobs_per_worker` jobs, until it is stopped.

    The weights of the bases that they hold have at most `base_memory` bytes together.
    """

    def __init__(
        self,
        jobs: JobStore,
        datasets: DatasetStore,
        registry: AdapterRegistry,
        executor: Executor,
        publisher: Publisher,
        metrics: TrainerMetrics,
        *,
        bases: BaseModels,
        base_memory: float = math.inf,
        workers: int,
        jobs_per_worker: int,
        max_worker_losses: int,
    ) -> None:
        self._jobs = jobs
        self._publisher = publisher
        self._metrics = metrics
        # Of this process alone: what it holds it knows, and what else has its name is left over.
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._stop = asyncio.Event()
        self._wake = asyncio.Event()
        self._losses = Losses(max_worker_losses)
        self._pauses: Pauses[JobName] = Pauses()
        self._workers = Workers(
            executor,
            bases,
            metrics,
            count=workers,
            memory=base_memory,
            max_losses=max_worker_losses,
            stop=self._stop,
            wake=self.wake,
        )
        self._assignments = Assignments(datasets, registry, self._workers.base_of)
        self._rules = Rules(
            jobs_per_worker=jobs_per_worker,
            must_be_alone=self._must_be_alone,
            suspected=lambda job: self._losses.suspects(job.name),
            base_of=self._workers.base_of,
            refused=self._workers.refused,
            sizes=self._workers.sizes,
        )
        self._placement = Placement(self._rules)
        self._runners: dict[JobName, Runner] = {}
        self._finishing: set[JobName] = set()
        self._left_over = False
        self._to_discard: asyncio.Queue[Left] = asyncio.Queue()

    async def recover(self) -> None:
        """Put a lost trainer's jobs back into the queue; no other trainer may hold this store."""
        lost, cancelled = await self._jobs.requeue_lost()
        if lost:
            _log.warning("jobs of a lost trainer go on", count=lost - len(cancelled))
        self._all_cancelled(cancelled)

    async def run(self) -> None:
        """Replay what is committed, and serve the queue; returns after `stop`.

        Raises FailedPrecondition if no worker can be started with the default base: its jobs would
        wait for ever.
        """
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._replay(group))
                group.create_task(self._sweep())
                group.create_task(self._discard())
                self._workers.begin()
                for slot in self._workers.slots:
                    group.create_task(self._workers.keep(slot))
                group.create_task(self._serve_queue(group))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures

    def wake(self) -> None:
        """Look at the queue now."""
        self._wake.set()
        self._wake = asyncio.Event()

    async def cancel(self, job: JobName) -> None:
        """Tell the worker that has `job`, if one has it here."""
        if job in self._runners:
            await self._runners[job].cancel()

    def cancelled(self, left: Left) -> None:
        """Forget a job that was cancelled with no worker on it, and delete what it left."""
        self._metrics.finished.labels(JobState.CANCELLED, "").inc()
        self._losses.forget(left.job)
        self._to_discard.put_nowait(left)
        # A worker may have been closed to others for its sake.
        self.wake()

    async def pause(self, job: JobName) -> None:
        """Have the worker that has `job`, if one has it here, checkpoint and let go of it."""
        if job in self._runners:
            await self._runners[job].suspend()

    async def stop(self) -> None:
        """Claim nothing more; have every worker checkpoint and let go of its jobs."""
        self._stop.set()
        self.wake()
        await asyncio.gather(*(runner.suspend() for runner in self._runners.values()))

    async def _replay(self, group: asyncio.TaskGroup) -> None:
        committed = await insist(
            lambda: self._jobs.claim_publications(self._owner, held=self._held())
        )
        self._finish(group, committed)

    def _held(self) -> set[JobName]:
        return {*self._runners, *self._finishing}

    def _finish(self, group: asyncio.TaskGroup, committed: list[tuple[Lease, Publication]]) -> None:
        for lease, publication in committed:
            self._finishing.add(lease.job)
            group.create_task(self._finish_one(lease, publication))

    async def _finish_one(self, lease: Lease, publication: Publication) -> None:
        try:
            await self._publisher.finish(lease, publication)
        except Exception:
            # The next start tries again; others' jobs go on until then.
            _log.exception("committed version not published", job=str(lease.job))
        finally:
            self._finishing.discard(lease.job)

    def _all_cancelled(self, jobs: list[Left]) -> None:
        for left in jobs:
            self.cancelled(left)

    async def _sweep(self) -> None:
        try:
            await self._unless_stopped(self._publisher.sweep())
        except Exception:
            _log.exception("what ended jobs left is not swept")

    async def _discard(self) -> None:
        """Delete what cancelled jobs left, one after the other; callers do not wait for it."""
        while (left := await self._unless_stopped(self._to_discard.get())) is not None:
            await self._discard_one(left)

    async def _discard_one(self, left: Left) -> None:
        try:
            await self._publisher.discard(left)
        except Exception:
            _log.exception("what a cancelled job left is not deleted", job=str(left.job))

    async def _serve_queue(self, group: asyncio.TaskGroup) -> None:
        failures = 0
        while not self._stop.is_set():
            # Both are taken before the look: what changes during it is looked at again.
            wake, seconds = self._wake, self._next_pause_end()
            try:
                placed = await self._place_next(group)
                failures = 0
            except Unavailable as error:
                # What was done may have been done all the same.
                self._left_over = True
                failures += 1
                _log.warning("queue waits", error=error.message)
                await self._unless_stopped(asyncio.sleep(pause_after(failures)))
                continue
            if not placed:
                await wait(wake, seconds)

    def _next_pause_end(self) -> float | None:
        ends = self._pauses.next_end(), self._workers.next_pause_end()
        return min((end for end in ends if end is not None), default=None)

    async def _place_next(self, group: asyncio.TaskGroup) -> bool:
        """Look at the queue once; tell whether to look again at once."""
        if self._left_over:
            await self._take_back(group)
        look = self._placement.look(self._workers.stock())
        claimed = None
        if look.may_change_anything():
            avoid = {*self._runners, *self._pauses.paused()}
            claimed = await self._jobs.claim(
                self._owner, look.fits, avoid=avoid, passed=look.passed
            )
        if claimed is not None:
            await self._see_to(group, look, *claimed)
        else:
            self._workers.meet(look.demand)
        # A job that is ours by now is not lost for the sake of a number.
        with suppress(Unavailable):
            self._metrics.set_jobs(await self._jobs.counts())
        return claimed is not None or look.end()

    async def _see_to(self, group: asyncio.TaskGroup, look: Look, lease: Lease, job: Job) -> None:
        if look.chosen is not None:
            self._begin(group, look.chosen, lease, job)
        elif look.refusal is not None:
            _log.warning("job held back", job=str(job.name), error=look.refusal.message)
            try:
                left = await self._jobs.release(lease, look.refusal)
            except LeaseLost:
                self._left_over = True
                return
            if left is not None:
                self.cancelled(left)

    async def _take_back(self, group: asyncio.TaskGroup) -> None:
        """See to the leases of this process that nobody here works on."""
        owner, held = self._owner, self._held()
        _, cancelled = await self._jobs.requeue_lost(owner, held)
        self._all_cancelled(cancelled)
        self._finish(group, await self._jobs.claim_publications(owner, owner, held))
        self._left_over = False

    def _must_be_alone(self, job: Job) -> bool:
        return job.spec.isolation is Isolation.EXCLUSIVE or self._losses.suspects(job.name)

    def _begin(self, group: asyncio.TaskGroup, place: Place, lease: Lease, job: Job) -> None:
        key, slots = key_of(lease), slots_of(job, place, self._rules)
        inbox = place.take(key, alone=self._must_be_alone(job), slots=slots)

        def halved(trials: int) -> None:
            place.shrink(key, trials)
            self.wake()

        runner = Runner(
            lease,
            job,
            place.worker,
            inbox,
            self._jobs,
            self._assignments,
            self._publisher,
            self._losses,
            self._metrics,
            at_once=slots,
            halved=halved,
            suspended=self._stop.is_set(),
        )
        self._runners[job.name] = runner
        group.create_task(self._run(runner, place))

    async def _run(self, runner: Runner, place: Place) -> None:
        job = runner.job.name
        try:
            ending = await runner.run()
            if ending is Ending.DONE:
                place.proven = True
                self._pauses.forget(job)
            elif ending is not Ending.LOST:
                # Memory may be short: each try waits longer, however long ago the last one was.
                self._pauses.add(job, at_least=max(1, self._losses.tokenising(job)))
            self._left_over |= ending is Ending.UNCLEAR
        finally:
            # Nothing is awaited here: a database that hangs would hold the stop.
            place.leave(runner.key)
            del self._runners[job]
            self.wake()

    async def _unless_stopped(self, action: Coroutine[Any, Any, _T]) -> _T | None:
        return await first(action, self._stop.wait())
