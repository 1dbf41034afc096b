"""Takes jobs from the queue and places each on a worker, where a `Runner` sees to it.

One task a worker starts it and takes what it says to the leases it has; one task serves the queue;
each lease has a task of its own. None of them waits for another's job.
"""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import structlog

from tailorbird.errors import FailedPrecondition, Unavailable
from tailorbird.names import JobName
from tailorbird.registry import AdapterRegistry
from trainer_svc.datasets.store import DatasetStore
from trainer_svc.dispatch.assignment import Assignments, key_of
from trainer_svc.dispatch.backoff import Pauses, insist, pause_after
from trainer_svc.dispatch.executor import Executor, Worker, WorkerLost
from trainer_svc.dispatch.losses import Losses
from trainer_svc.dispatch.place import Place
from trainer_svc.dispatch.placement import Placement
from trainer_svc.dispatch.publisher import Publisher
from trainer_svc.dispatch.runner import Ending, Runner
from trainer_svc.jobs.fence import Lease
from trainer_svc.jobs.model import Isolation, Job, JobState, Left
from trainer_svc.jobs.publication import Publication
from trainer_svc.jobs.store import JobStore
from trainer_svc.metrics import TrainerMetrics

_log = structlog.get_logger(__name__)

_T = TypeVar("_T")


class Dispatcher:
    """Keeps `workers` workers busy, each with up to `jobs_per_worker` jobs, until it is stopped."""

    def __init__(
        self,
        jobs: JobStore,
        datasets: DatasetStore,
        registry: AdapterRegistry,
        executor: Executor,
        publisher: Publisher,
        metrics: TrainerMetrics,
        *,
        base_model_digest: str,
        workers: int,
        jobs_per_worker: int,
        max_worker_losses: int,
    ) -> None:
        self._jobs = jobs
        self._assignments = Assignments(datasets, registry, base_model_digest)
        self._executor = executor
        self._publisher = publisher
        self._metrics = metrics
        self._workers = workers
        self._max_worker_losses = max_worker_losses
        # Of this process alone: what it holds it knows, and what else has its name is left over.
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._stop = asyncio.Event()
        self._wake = asyncio.Event()
        self._losses = Losses(max_worker_losses)
        self._pauses = Pauses()
        self._placement = Placement(jobs_per_worker, self._must_be_alone)
        self._places: list[Place] = []
        self._runners: dict[JobName, Runner] = {}
        self._finishing: set[JobName] = set()
        self._left_over = False
        self._to_discard: asyncio.Queue[Left] = asyncio.Queue()
        self._proven = False
        self._failed_starts = 0
        self._starting = 0
        """Workers whose first start goes on."""

    async def recover(self) -> None:
        """Put a lost trainer's jobs back into the queue; no other trainer may hold this store."""
        lost, cancelled = await self._jobs.requeue_lost()
        if lost:
            _log.warning("jobs of a lost trainer go on", count=lost - len(cancelled))
        self._all_cancelled(cancelled)

    async def run(self) -> None:
        """Replay what is committed, and serve the queue; returns after `stop`.

        Raises FailedPrecondition if no worker can be started: queued jobs would wait for ever.
        """
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._replay(group))
                group.create_task(self._sweep())
                group.create_task(self._discard())
                self._starting = self._workers
                for index in range(self._workers):
                    group.create_task(self._keep(index))
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
            wake, seconds = self._wake, self._pauses.next_end()
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
                await _wait(wake, seconds)

    async def _place_next(self, group: asyncio.TaskGroup) -> bool:
        if self._left_over:
            await self._take_back(group)
        look = self._placement.look(self._places, starting=self._starting)
        claimed = None
        if look.has_room():
            avoid = {*self._runners, *self._pauses.jobs()}
            claimed = await self._jobs.claim(self._owner, look.fits, avoid=avoid)
            if claimed is not None and look.chosen is not None:
                self._begin(group, look.chosen, *claimed)
        # A job that is ours by now is not lost for the sake of a number.
        with suppress(Unavailable):
            self._metrics.set_jobs(await self._jobs.counts())
        return claimed is not None

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
        inbox = place.take(key_of(lease), alone=self._must_be_alone(job))
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
                self._pauses.add(job)
            self._left_over |= ending is Ending.UNCLEAR
        finally:
            # Nothing is awaited here: a database that hangs would hold the stop.
            place.leave(runner.key)
            del self._runners[job]
            self.wake()

    async def _keep(self, index: int) -> None:
        """Have one worker, and another when it is lost."""
        failures, first = 0, True
        while not self._stop.is_set():
            place: Place | None = None
            try:
                try:
                    worker = await self._unless_stopped(self._start(index))
                finally:
                    self._starting -= first
                    first = False
                    self.wake()
                if worker is not None:
                    place = Place(worker)
                    await self._keep_reading(place)
            except WorkerLost as error:
                self._metrics.worker_losses.inc()
                failures = 1 if place and place.proven else failures + 1
                _log.warning("worker lost", index=index, error=error.message)
                await self._unless_stopped(asyncio.sleep(pause_after(failures)))

    async def _start(self, index: int) -> Worker:
        """Start a worker; FailedPrecondition if none ever started here, and this one cannot."""
        try:
            worker = await self._executor.start(index)
        except FailedPrecondition as error:
            if not self._proven:
                raise
            raise WorkerLost(error.message) from error
        except WorkerLost as error:
            self._failed_starts += 1
            if self._proven or self._failed_starts < self._max_worker_losses:
                raise
            raise FailedPrecondition(
                f"no worker can be started: {self._failed_starts} ended before they were ready; "
                f"the last: {error.message}",
                reason="WORKER_CANNOT_START",
            ) from error
        self._proven = True
        return worker

    async def _keep_reading(self, place: Place) -> None:
        """Offer a worker to jobs until it is lost, or has let go of all after a stop."""
        self._metrics.workers.inc()
        self._places.append(place)
        self.wake()
        try:
            await _first(place.read(), self._stopped_and_idle(place))
        finally:
            self._metrics.workers.dec()
            self._places.remove(place)
            await place.worker.close()

    async def _stopped_and_idle(self, place: Place) -> None:
        await self._stop.wait()
        await place.idle.wait()

    async def _unless_stopped(self, action: Coroutine[Any, Any, _T]) -> _T | None:
        return await _first(action, self._stop.wait())


async def _first(action: Coroutine[Any, Any, _T], other: Coroutine[Any, Any, object]) -> _T | None:
    """Return what `action` gives, or None if `other` ends before it; what goes on is ended."""
    task, end = asyncio.create_task(action), asyncio.create_task(other)
    try:
        await asyncio.wait({task, end}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for pending in (task, end):
            pending.cancel()
        await asyncio.wait({task, end})


async def _wait(wake: asyncio.Event, seconds: float | None) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await wake.wait()
