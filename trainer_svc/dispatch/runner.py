"""One lease, from its Start to its end: what the worker reports goes into the job store.

Whatever is lost on the way, the job store says who may go on, and from where:

    worker lost            the job goes back to the queue and resumes from its last checkpoint
    this process lost      the same, at the next start
    version committed      the rest is replayed until it is written, also at the next start
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

import structlog

from tailorbird.errors import LeaseLost, TailorbirdError, Unavailable
from tailorbird.manifest import AdapterManifest
from trainer_svc.dispatch.assignment import Assignments, key_of
from trainer_svc.dispatch.backoff import insist
from trainer_svc.dispatch.executor import Worker, WorkerLost
from trainer_svc.dispatch.holder import Holder
from trainer_svc.dispatch.inbox import Inbox
from trainer_svc.dispatch.losses import (
    after_attempt,
    after_data_loss,
    after_worker_loss,
    pause_of,
    suspected,
    waits,
)
from trainer_svc.dispatch.progress import Progress
from trainer_svc.dispatch.publisher import Publisher
from trainer_svc.jobs.events import (
    CheckpointSaved,
    EventPayload,
    JobWarning,
    Prepared,
    StateChanged,
    created_with,
)
from trainer_svc.jobs.fence import CancelRequested, GivenBack, Lease
from trainer_svc.jobs.model import Job, JobError, JobState, Left
from trainer_svc.jobs.store import JobStore
from trainer_svc.metrics import TrainerMetrics
from trainer_svc.protocol import (
    OUT_OF_MEMORY,
    TOKENISING_LOST,
    Assignment,
    Cancel,
    Cancelled,
    Evaluating,
    Failed,
    Report,
    Reported,
    Start,
    Suspend,
    Suspended,
    Trained,
    Upload,
    Uploaded,
)

_log = structlog.get_logger(__name__)

_TELL_SECONDS = 5.0
_MOST_FIRST = 32
"""Events among which all warnings of a job's creation are, and of its data's first preparation."""
_AT_WORK = frozenset({JobState.RUNNING, JobState.EVALUATING})
_OWN_FAULTS = frozenset({OUT_OF_MEMORY, TOKENISING_LOST})
"""Reasons of the job's own; of others, something that it needs is down."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a job is tried that goes wrong without being known to be wrong itself."""

    losses: int
    """Deaths of its worker, or of the process of its data, after which it fails."""
    attempts: int
    """Leases in a row without a checkpoint that end for want of something."""


class Ending(Enum):
    """How a lease ended."""

    DONE = auto()
    """The job has ended."""
    LOST = auto()
    """The worker is lost; the job is given back, or has ended with it."""
    AGAIN = auto()
    """The job is given back; what it needs may be down."""
    UNCLEAR = auto()
    """The job may still be leased, by nobody who works on it."""


class Runner:
    """Runs one lease on a worker that may have others; one `suspended` is given back at once.

    A sweep trains `at_once` trials at a time; `halved` hears how many are left of them.
    """

    def __init__(
        self,
        lease: Lease,
        job: Job,
        worker: Worker,
        inbox: Inbox,
        jobs: JobStore,
        assignments: Assignments,
        publisher: Publisher,
        metrics: TrainerMetrics,
        *,
        patience: Patience,
        at_once: int,
        halved: Callable[[int], None],
        suspended: bool,
    ) -> None:
        self.lease = lease
        self.job = job
        self.key = key_of(lease)
        self._worker = worker
        self._inbox = inbox
        self._jobs = jobs
        self._held = Holder(jobs, lease)
        self._assignments = assignments
        self._publisher = publisher
        self._metrics = metrics
        self._patience = patience
        self._faults = job.faults
        self.pause = 0.0
        """Seconds for which the job, once given back, is taken up by nobody."""
        self._at_once = at_once
        self._state: JobState | None = None
        self._suspended = suspended
        self._warned: set[JobWarning] = set()
        """What earlier leases have warned of."""
        self._progress = Progress(metrics, job.sweep, halved)

    async def run(self) -> Ending:
        """Run the lease to its end; only a cancellation is raised.

        A lease that is given up for a reason that is not the worker's is cancelled there, and
        nobody waits for the answer: the worker's other leases go on.
        """
        with self._progress.counted():
            try:
                return await self._run()
            except Exception as error:
                await self._tell(Cancel(lease=self.key))
                return await self._give_up(error)

    async def cancel(self) -> None:
        """Have the worker stop the job and forget it."""
        await self._tell(Cancel(lease=self.key))

    async def suspend(self) -> None:
        """Have the worker checkpoint the job and let go of it."""
        self._suspended = True
        await self._tell(Suspend(lease=self.key))

    def lose(self) -> None:
        """Hear that the lease is another's: whatever the worker still reports is of no use."""
        self._inbox.close(LeaseLost(f"the lease of {self.job.name} was not kept"), at_once=True)

    async def _run(self) -> Ending:
        try:
            return await self._train()
        except WorkerLost as error:
            return await self._after_loss(error)
        except Unavailable as error:
            _log.warning("job waits", job=str(self.job.name), error=error.message)
            await self._tell(Cancel(lease=self.key))
            return await self._after_attempt(_told(error))

    async def _give_up(self, error: Exception) -> Ending:
        log = _log.bind(job=str(self.job.name), lease_epoch=self.lease.epoch)
        if isinstance(error, LeaseLost):
            log.warning("lease lost", error=error.message)
            return Ending.UNCLEAR
        if isinstance(error, TailorbirdError):
            failure = _told(error)
        else:
            correlation = uuid.uuid4().hex
            log.error("unexpected error", correlation_id=correlation, exc_info=error)
            failure = JobError(reason="INTERNAL", message=f"internal error {correlation}")
        try:
            await self._fail(failure)
        except Exception:
            log.exception("the job could not be ended")
            return Ending.UNCLEAR
        return Ending.DONE

    async def _train(self) -> Ending:
        if self._suspended:
            return await self._release(GivenBack())
        assignment = await self._assigned()
        self._inbox.check_open()
        await self._worker.send(Start(assignment=assignment))
        self._state = JobState.PREPARING
        await self._catch_up()
        while True:
            if (ending := await self._heard(await self._inbox.get())) is not None:
                return ending

    async def _assigned(self) -> Assignment:
        """Look up what the worker must know, and what the job was warned of at its creation."""
        assignment = await self._assignments.of(self.lease, self.job, self._at_once)
        first = await self._jobs.events(self.job.name, 0, _MOST_FIRST)
        self._warned = {each.payload for each in first if isinstance(each.payload, JobWarning)}
        return assignment.model_copy(update={"data_warnings": created_with(first)})

    async def _catch_up(self) -> None:
        """Tell the worker what was asked between the claim and its Start."""
        job = await insist(lambda: self._jobs.get(self.job.name))
        if job.cancel_requested:
            await self._tell(Cancel(lease=self.key))
        elif job.pause_requested or self._suspended:
            await self._tell(Suspend(lease=self.key))

    async def _heard(self, report: Report) -> Ending | None:
        match report:
            case Reported(event=event):
                await self._reported(event)
            case Evaluating():
                await self._record(StateChanged(state=JobState.EVALUATING))
                self._state = JobState.EVALUATING
            case Trained():
                version = await self._publisher.allocate(self._held, self.job)
                self._state = JobState.PUBLISHING
                await self._worker.send(Upload(lease=self.key, version=version.version))
            case Uploaded(manifest=manifest):
                return await self._publish(manifest)
            case Suspended(error=error):
                return await self._release(GivenBack(error=error))
            case Cancelled():
                return await self._cancelled()
            case Failed(error=error, retryable=True):
                return await self._after_failure(error)
            case Failed(error=error):
                await self._fail(error)
                return Ending.DONE
        return None

    async def _reported(self, event: EventPayload) -> None:
        if isinstance(event, JobWarning) and event in self._warned:
            return
        self._progress.reported(event)
        if isinstance(event, Prepared):
            await self._record(event, StateChanged(state=JobState.RUNNING))
            self._state = JobState.RUNNING
        else:
            await self._record(event)
        self._progress.recorded(event)
        if isinstance(event, CheckpointSaved):
            self._faults = self._faults.model_copy(update={"attempts": 0})

    async def _record(self, *events: EventPayload) -> None:
        await self._held.record(*events)

    async def _release(self, given: GivenBack) -> Ending:
        left = await self._held.release(given)
        self.pause = given.pause
        if left is None:
            return Ending.AGAIN
        await self._discard(left, JobState.CANCELLED)
        return Ending.DONE

    async def _publish(self, manifest: AdapterManifest) -> Ending:
        try:
            await self._publisher.publish(self._held, self.job, manifest)
        except CancelRequested:
            return await self._cancelled()
        return Ending.DONE

    async def _cancelled(self) -> Ending:
        left = await self._held.cancelled()
        await self._discard(left, JobState.CANCELLED)
        return Ending.DONE

    async def _fail(self, error: JobError) -> None:
        name, reason = str(self.job.name), error.reason
        _log.warning("job failed", job=name, reason=reason, error=error.message)
        left = await self._held.fail(error)
        await self._discard(left, JobState.FAILED, reason)

    async def _discard(self, left: Left, state: JobState, reason: str = "") -> None:
        self._metrics.finished.labels(state, reason).inc()
        await self._publisher.discard(left)

    async def _after_loss(self, error: WorkerLost) -> Ending:
        if self._state is None or error.from_outside:
            # Nothing was begun, or no job did it.
            await self._release(GivenBack())
            return Ending.LOST
        faults = after_worker_loss(self._faults, at_work=self._state in _AT_WORK)
        if faults.worker_losses >= self._patience.losses:
            died = f"its worker process died {faults.worker_losses} times"
            message = f"{died}; last: {error.message}"
            await self._fail(JobError(reason="WORKER_LOST", message=message))
        else:
            await self._release(GivenBack(faults=faults))
        return Ending.LOST

    async def _after_failure(self, error: JobError) -> Ending:
        """Have the job tried again after something that need not be its own doing."""
        if error.reason == TOKENISING_LOST:
            self._faults = after_data_loss(self._faults)
            if self._faults.data_losses >= self._patience.losses:
                await self._fail(error)
                return Ending.DONE
        if error.reason == OUT_OF_MEMORY:
            self._faults = suspected(self._faults)
        return await self._after_attempt(error)

    async def _after_attempt(self, error: JobError) -> Ending:
        """Give the job back for a while; too often in a row, and somebody must see to it first."""
        faults = after_attempt(self._faults)
        if faults.attempts < self._patience.attempts:
            pause = pause_of(faults)
            told = waits(error, pause)
            return await self._release(GivenBack(faults=faults, pause=pause, told=told))
        tried = f"tried {faults.attempts} times in a row; last: {error.message}"
        last = error.model_copy(update={"message": tried})
        if error.reason in _OWN_FAULTS:
            await self._fail(last)
            return Ending.DONE
        # Whoever mends it resumes the job, and then it is tried as often again.
        faults = faults.model_copy(update={"attempts": 0})
        return await self._release(GivenBack(error=last, faults=faults))

    async def _tell(self, command: Cancel | Suspend) -> None:
        """Send what need not arrive: of a lost worker the inbox knows."""
        try:
            async with asyncio.timeout(_TELL_SECONDS):
                await self._worker.send(command)
        except (WorkerLost, TimeoutError) as error:
            _log.info("not told", command=command.kind, lease=command.lease, error=str(error))
        except Exception:
            _log.exception("not told", command=command.kind, lease=command.lease)


def _told(error: TailorbirdError) -> JobError:
    return JobError(reason=error.reason, message=error.message, metadata=error.metadata)
