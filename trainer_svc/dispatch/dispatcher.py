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
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import structlog

from tailorbird.errors import LeaseLost, Unavailable
from tailorbird.names import JobName
from tailorbird.registry import AdapterRegistry
from trainer_svc.bases import BaseModels
from trainer_svc.datasets.store import DatasetStore
from trainer_svc.dispatch.assignment import Assignments, key_of
from trainer_svc.dispatch.backoff import pause_after
from trainer_svc.dispatch.executor import Executor
from trainer_svc.dispatch.heart import Heart
from trainer_svc.dispatch.holder import Holder
from trainer_svc.dispatch.place import Place
from trainer_svc.dispatch.placement import Look, Placement, Rules, slots_of
from trainer_svc.dispatch.publisher import Publisher
from trainer_svc.dispatch.runner import Ending, Patience, Runner
from trainer_svc.dispatch.waiting import first, wait
from trainer_svc.dispatch.workers import Workers
from trainer_svc.jobs.database import ValueRefused
from trainer_svc.jobs.fence import GivenBack, Lease
from trainer_svc.jobs.leases import Kept
from trainer_svc.jobs.model import Isolation, Job, JobState, Left
from trainer_svc.jobs.publication import Publication
from trainer_svc.jobs.store import JobStore
from trainer_svc.metrics import TrainerMetrics

_log = structlog.get_logger(__name__)

_T = TypeVar("_T")
_POLL_SECONDS = 1.0
"""After which the queue is looked at, whatever was heard: other trainers add to it, too."""
_COUNT_SECONDS = 5.0
_SHARE_TO_TELL = 8
"""The part of a lease that workers have to take what they are told, less than a beat's."""


class Dispatcher:
    """Keeps `workers` workers busy, each with up to `jobs_per_worker` jobs, until it is stopped.

    The weights of the bases that they hold have at most `base_memory` bytes together. `set_ready`
    hears, again and again, whether the job store answers.
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
        trainer: str = "",
        base_memory: float = math.inf,
        workers: int,
        jobs_per_worker: int,
        max_worker_losses: int,
        max_attempts: int = 20,
        set_ready: Callable[[bool], Awaitable[None]] | None = None,
    ) -> None:
        self._jobs = jobs
        self._publisher = publisher
        self._metrics = metrics
        self._set_ready = set_ready
        self._patience = Patience(losses=max_worker_losses, attempts=max_attempts)
        self._trainer = f"{trainer or uuid.uuid4().hex}/"
        # Of this process alone: what it holds it knows, and what else has its name is left over.
        self._owner = f"{self._trainer}{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._stop = asyncio.Event()
        self._wake = asyncio.Event()
        self._heart = Heart(jobs, self._owner, self)
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
            suspected=lambda job: job.faults.alone,
            base_of=self._workers.base_of,
            refused=self._workers.refused,
            sizes=self._workers.sizes,
        )
        self._placement = Placement(self._rules)
        self._runners: dict[JobName, Runner] = {}
        self._finishing: dict[JobName, Lease] = {}
        self._left_over = False
        self._to_publish = True
        self._to_discard: asyncio.Queue[Left] = asyncio.Queue()

    async def recover(self) -> None:
        """Put the jobs of this trainer's last process back into the queue; it is known to be gone.

        What other trainers' processes leave is taken over when their leases are over.
        """
        self._all_cancelled(await self._jobs.take_back(self._trainer))

    async def run(self) -> None:
        """Replay what is committed, and serve the queue; returns after `stop`.

        Without workers others do that; it only looks after leases, and what cancelled jobs leave.
        Raises FailedPrecondition if no worker can be started with the default base: its jobs would
        wait for ever.
        """
        try:
            async with self._heart.beating(), asyncio.TaskGroup() as group:
                group.create_task(self._discard())
                if not self._workers.slots:
                    group.create_task(self._count())
                    return
                self._workers.begin()
                for slot in self._workers.slots:
                    group.create_task(self._workers.keep(slot))
                group.create_task(self._serve_queue(group))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures

    def holders(self) -> Mapping[JobName, int]:
        """See Heeded."""
        leases = [*(runner.lease for runner in self._runners.values()), *self._finishing.values()]
        return {lease.job: lease.epoch for lease in leases}

    async def kept(self, before: Mapping[JobName, int], kept: Mapping[JobName, Kept]) -> None:
        """See Heeded: tell runners that their lease is lost, or what callers ask of their job."""
        told = []
        for job, epoch in before.items():
            runner = self._runners.get(job)
            if runner is None or runner.lease.epoch != epoch:
                continue
            found = kept.get(job)
            if found is None or found.epoch != epoch:
                runner.lose()
            elif found.cancel_requested:
                told.append(runner.cancel())
            elif found.pause_requested:
                told.append(runner.suspend())
        with suppress(TimeoutError):
            # A worker that takes nothing must not hold up the next beat: it is told then again.
            async with asyncio.timeout(self._jobs.lease_seconds / _SHARE_TO_TELL):
                await asyncio.gather(*told)
        # The queue's own task looks again: it alone knows what it has claimed at this moment.
        self._left_over |= not kept.keys() <= {*before, *self.holders()}
        self.wake()

    async def answers(self, *, well: bool) -> None:
        """See Heeded: without the job store nothing can be asked of this trainer."""
        if self._set_ready is not None:
            await self._set_ready(well)

    def taken_over(self, cancelled: list[Left]) -> None:
        """See Heeded."""
        self._all_cancelled(cancelled)

    def heard(self, job: JobName, state: JobState) -> None:
        """Hear that another trainer has changed a job: it may wait here, or be asked to stop."""
        if job in self._runners:
            self._heart.hasten()
        if state is JobState.QUEUED:
            self.wake()

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

    def _held(self) -> set[JobName]:
        return {*self._runners, *self._finishing}

    def _finish(self, group: asyncio.TaskGroup, committed: list[tuple[Lease, Publication]]) -> None:
        for lease, publication in committed:
            self._finishing[lease.job] = lease
            group.create_task(self._finish_one(lease, publication))

    async def _finish_one(self, lease: Lease, publication: Publication) -> None:
        try:
            await self._publisher.finish(Holder(self._jobs, lease), publication)
        except LeaseLost as error:
            _log.warning("lease lost", job=str(lease.job), error=error.message)
        except Exception:
            # Its lease is over some time; then it is tried again, here or elsewhere.
            _log.exception("committed version not published", job=str(lease.job))
        finally:
            del self._finishing[lease.job]

    def _all_cancelled(self, jobs: list[Left]) -> None:
        for left in jobs:
            self.cancelled(left)

    async def _discard(self) -> None:
        """Delete what cancelled jobs left, one after the other; callers do not wait for it."""
        while (left := await self._unless_stopped(self._to_discard.get())) is not None:
            await self._discard_one(left)

    async def _discard_one(self, left: Left) -> None:
        try:
            await self._publisher.discard(left)
        except Exception:
            _log.exception("what a cancelled job left is not deleted", job=str(left.job))

    async def _count(self) -> None:
        """Tell how many jobs there are to do, by which others are started."""
        while not self._stop.is_set():
            await self._tell_counts()
            await wait(self._stop, _COUNT_SECONDS)

    async def _tell_counts(self) -> None:
        # A job that is ours by now is not lost for the sake of a number.
        with suppress(Unavailable):
            self._metrics.set_jobs(await self._jobs.counts())

    async def _serve_queue(self, group: asyncio.TaskGroup) -> None:
        failures = 0
        while not self._stop.is_set():
            # Both are taken before the look: what changes during it is looked at again.
            wake, seconds = self._wake, self._next_look()
            try:
                placed = await self._place_next(group)
                failures = 0
            except (Unavailable, ValueRefused) as error:
                # What was done may have been done all the same.
                self._left_over = True
                failures += 1
                _log.warning("queue waits", error=error.message)
                await self._unless_stopped(asyncio.sleep(pause_after(failures)))
                continue
            if not placed:
                await wait(wake, seconds)
                self._to_publish = True

    def _next_look(self) -> float:
        """Return in how many seconds to look again, whether anybody has called or not."""
        return min(self._workers.next_pause_end() or math.inf, _POLL_SECONDS)

    async def _place_next(self, group: asyncio.TaskGroup) -> bool:
        """Look at the queue once; tell whether to look again at once."""
        if self._left_over:
            self._all_cancelled(await self._jobs.take_back(self._owner, self._held()))
            self._left_over, self._to_publish = False, True
        if self._to_publish:
            # A lease may be over whose holder is at work here all the same.
            claimable = self._jobs.claim_publications(self._owner, self._held())
            self._finish(group, await claimable)
            self._to_publish = False
        look = self._placement.look(self._workers.stock())
        claimed = None
        if look.may_change_anything():
            claimed = await self._jobs.claim(
                self._owner, look.fits, avoid=set(self._runners), passed=look.passed
            )
        if claimed is not None:
            await self._see_to(group, look, *claimed)
        else:
            self._workers.meet(look.demand)
        await self._tell_counts()
        return claimed is not None or look.end()

    async def _see_to(self, group: asyncio.TaskGroup, look: Look, lease: Lease, job: Job) -> None:
        if look.chosen is not None:
            self._begin(group, look.chosen, lease, job)
        elif look.refusal is not None:
            _log.warning("job held back", job=str(job.name), error=look.refusal.message)
            try:
                left = await self._jobs.release(lease.write(), GivenBack(error=look.refusal))
            except LeaseLost:
                self._left_over = True
                return
            if left is not None:
                self.cancelled(left)

    def _must_be_alone(self, job: Job) -> bool:
        return job.spec.isolation is Isolation.EXCLUSIVE or job.faults.alone

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
            self._metrics,
            patience=self._patience,
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
            place.proven |= ending is Ending.DONE
            self._left_over |= ending is Ending.UNCLEAR
        finally:
            # Nothing is awaited here: a database that hangs would hold the stop.
            place.leave(runner.key)
            del self._runners[job]
            self.wake()
            if runner.pause:
                asyncio.get_running_loop().call_later(runner.pause, self.wake)

    async def _unless_stopped(self, action: Coroutine[Any, Any, _T]) -> _T | None:
        return await first(action, self._stop.wait())
