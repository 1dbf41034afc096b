"""Takes jobs from the queue, hands each to a worker, and carries what comes back into the store.

One slot a worker: claim → start → reports → publish → finish. Whatever is lost on the way, the job
store says who may go on, and from where:

    worker lost            the job goes back to the queue and resumes from its last checkpoint
    this process lost      the same, at the next start
    version committed      the rest is replayed until it is written, also at the next start
"""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import structlog

from tailorbird.errors import FailedPrecondition, LeaseLost, TailorbirdError, Unavailable
from tailorbird.manifest import AdapterManifest
from tailorbird.names import DatasetName, JobName, VersionName
from tailorbird.registry import AdapterRegistry
from trainer_svc.datasets.store import DatasetStore
from trainer_svc.dispatch.backoff import insist
from trainer_svc.dispatch.executor import Executor, Worker, WorkerLost
from trainer_svc.dispatch.publisher import Publisher
from trainer_svc.jobs.model import (
    Job,
    JobError,
    JobState,
    Prepared,
    StateChanged,
    StepProgress,
)
from trainer_svc.jobs.store import CancelRequested, JobStore, Lease
from trainer_svc.metrics import TrainerMetrics
from trainer_svc.protocol import (
    Assignment,
    Cancel,
    Cancelled,
    DatasetRef,
    Evaluating,
    Failed,
    LeaseKey,
    Ready,
    Reported,
    Start,
    Suspend,
    Suspended,
    Trained,
    Unusable,
    Upload,
    Uploaded,
)

_log = structlog.get_logger(__name__)

_MAX_BACKOFF_SECONDS = 30.0

_T = TypeVar("_T")


class Dispatcher:
    """Keeps `workers` workers busy until it is stopped."""

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
        max_worker_losses: int,
    ) -> None:
        self._jobs = jobs
        self._datasets = datasets
        self._registry = registry
        self._executor = executor
        self._publisher = publisher
        self._metrics = metrics
        self._base_model_digest = base_model_digest
        self._workers = workers
        self._max_worker_losses = max_worker_losses
        self._owner = f"{socket.gethostname()}:{os.getpid()}"
        self._stop = asyncio.Event()
        self._wake = asyncio.Event()
        self._active: dict[JobName, tuple[Lease, Worker]] = {}
        self._losses: Counter[JobName] = Counter()
        self._proven = False
        self._failed_starts = 0

    async def recover(self) -> None:
        """Put a lost trainer's jobs back into the queue; no other trainer may hold this store."""
        lost = await self._jobs.requeue_lost()
        if lost:
            _log.warning("jobs of a lost trainer go on", count=lost)

    async def run(self) -> None:
        """Replay what is committed, then serve the queue; returns after `stop`.

        Raises FailedPrecondition if no worker can be started: queued jobs would wait for ever.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for lease, publication in await self._jobs.claim_publications(self._owner):
                    group.create_task(self._publisher.finish(lease, publication))
                for index in range(self._workers):
                    group.create_task(self._slot(index))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures

    def wake(self) -> None:
        """Look at the queue now."""
        self._wake.set()
        self._wake = asyncio.Event()

    async def cancel(self, job: JobName) -> None:
        """Tell the worker that has `job`, if one has it here."""
        if job in self._active:
            lease, worker = self._active[job]
            await _tell(worker, Cancel(lease=_key(lease)))

    async def stop(self) -> None:
        """Claim nothing more; have every worker checkpoint and let go of its job."""
        self._stop.set()
        self.wake()
        for lease, worker in list(self._active.values()):
            await _tell(worker, Suspend(lease=_key(lease)))

    async def _slot(self, index: int) -> None:
        worker: Worker | None = None
        backoff = 0.5
        try:
            while not self._stop.is_set():
                try:
                    if worker is None:
                        worker = await self._unless_stopped(self._start(index))
                    elif claimed := await self._next():
                        await self._run(*claimed, worker)
                        backoff = 0.5
                except Unavailable as error:
                    _log.warning("worker slot waits", index=index, error=error.message)
                    if isinstance(error, WorkerLost):
                        self._metrics.worker_losses.inc()
                        await self._dismiss(worker)
                        worker = None
                    await self._unless_stopped(asyncio.sleep(backoff))
                    backoff = min(backoff * 2, _MAX_BACKOFF_SECONDS)
        finally:
            await self._dismiss(worker)

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
        self._metrics.workers.inc()
        return worker

    async def _dismiss(self, worker: Worker | None) -> None:
        if worker is not None:
            self._metrics.workers.dec()
            await worker.close()

    async def _unless_stopped(self, action: Coroutine[Any, Any, _T]) -> _T | None:
        task, stop = asyncio.create_task(action), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            for pending in (task, stop):
                pending.cancel()
            await asyncio.wait({task, stop})

    async def _next(self) -> tuple[Lease, Job] | None:
        wake = self._wake
        claimed = await self._jobs.claim(self._owner)
        # A job that is ours by now is not lost for the sake of a number.
        with suppress(Unavailable):
            self._metrics.set_jobs(await self._jobs.counts())
        if claimed is None and not self._stop.is_set():
            await wake.wait()
        return claimed

    async def _run(self, lease: Lease, job: Job, worker: Worker) -> None:
        """Run one job to its end or back into the queue; WorkerLost if the worker is of no use."""
        log = _log.bind(job=str(job.name), lease_epoch=lease.epoch)
        self._active[job.name] = lease, worker
        try:
            await self._train(lease, job, worker)
        except WorkerLost as error:
            await self._after_loss(lease, job, error)
            raise
        except LeaseLost as error:
            log.warning("lease lost", error=error.message)
            raise WorkerLost("its job is another holder's now") from error
        except Unavailable:
            await insist(lambda: self._jobs.release(lease))
            raise
        except TailorbirdError as error:
            details = JobError(reason=error.reason, message=error.message, metadata=error.metadata)
            await self._fail(lease, job, details)
            raise WorkerLost("its job failed outside of it") from error
        except Exception as error:
            correlation = uuid.uuid4().hex
            log.exception("unexpected error", correlation_id=correlation)
            await self._fail(
                lease, job, JobError(reason="INTERNAL", message=f"internal error {correlation}")
            )
            raise WorkerLost("its job failed outside of it") from error
        finally:
            # Nothing is awaited here: an error would hide the one above, a database that hangs
            # would hold the stop.
            del self._active[job.name]
            self.wake()

    async def _train(self, lease: Lease, job: Job, worker: Worker) -> None:
        key = _key(lease)
        await worker.send(Start(assignment=await self._assignment(lease, job)))
        # What was asked between the claim and now found no worker to tell.
        if (await self._jobs.get(job.name)).cancel_requested:
            await worker.send(Cancel(lease=key))
        if self._stop.is_set():
            await worker.send(Suspend(lease=key))
        version: VersionName | None = None
        step = tokens = 0
        while True:
            report = await worker.receive()
            if isinstance(report, Ready | Unusable) or report.lease != key:
                _log.info("a report of another lease", kind=report.kind, lease=key)
                continue
            match report:
                case Reported(event=event):
                    if isinstance(event, StepProgress):
                        self._metrics.steps.inc(max(0, event.step - step))
                        self._metrics.tokens.inc(max(0, event.tokens - tokens))
                        step, tokens = event.step, event.tokens
                    running = [StateChanged(state=JobState.RUNNING)]
                    after = running if isinstance(event, Prepared) else []
                    await insist(lambda: self._jobs.record(lease, event, *after))  # noqa: B023
                case Evaluating():
                    evaluating = StateChanged(state=JobState.EVALUATING)
                    await insist(lambda: self._jobs.record(lease, evaluating))  # noqa: B023
                case Trained():
                    version = await insist(lambda: self._publisher.allocate(lease, job))
                    await worker.send(Upload(lease=key, version=version.version))
                case Uploaded(manifest=manifest):
                    await self._publish(lease, job, manifest)
                    return
                case Suspended():
                    await insist(lambda: self._jobs.release(lease))
                    return
                case Cancelled():
                    await self._cancelled(lease, job, version)
                    return
                case Failed(error=error, retryable=True):
                    raise Unavailable(error.message, reason=error.reason)
                case Failed(error=error):
                    await self._fail(lease, job, error, version)
                    return

    async def _publish(self, lease: Lease, job: Job, manifest: AdapterManifest) -> None:
        try:
            await self._publisher.publish(lease, job, manifest)
        except CancelRequested:
            await self._cancelled(lease, job, VersionName.parse(manifest.version))
        self._losses.pop(job.name, None)

    async def _cancelled(self, lease: Lease, job: Job, version: VersionName | None) -> None:
        await insist(lambda: self._jobs.cancelled(lease))
        self._metrics.finished.labels(JobState.CANCELLED, "").inc()
        await self._publisher.discard(job, version)

    async def _fail(
        self, lease: Lease, job: Job, error: JobError, version: VersionName | None = None
    ) -> None:
        _log.warning("job failed", job=str(job.name), reason=error.reason, error=error.message)
        await insist(lambda: self._jobs.fail(lease, error))
        self._metrics.finished.labels(JobState.FAILED, error.reason).inc()
        self._losses.pop(job.name, None)
        await self._publisher.discard(job, version)

    async def _after_loss(self, lease: Lease, job: Job, error: WorkerLost) -> None:
        self._losses[job.name] += 1
        if self._losses[job.name] < self._max_worker_losses:
            await insist(lambda: self._jobs.release(lease))
            return
        message = f"its worker process died {self._losses[job.name]} times; last: {error.message}"
        await self._fail(lease, job, JobError(reason="WORKER_LOST", message=message))

    async def _assignment(self, lease: Lease, job: Job) -> Assignment:
        spec = job.spec
        head = await self._registry.head(spec.adapter_name)
        training = await self._dataset(spec.training_dataset)
        validation = spec.validation_dataset
        return Assignment(
            lease=_key(lease),
            base_model_digest=self._base_model_digest,
            adapter=spec.adapter,
            training=training,
            validation=await self._dataset(validation) if validation else None,
            validation_fraction=spec.validation_fraction,
            lora=spec.lora,
            hyperparameters=spec.hyperparameters,
            spec_sha256=spec.sha256(),
            parent_version=str(spec.adapter_name.version(head.version)) if head else "",
        )

    async def _dataset(self, name: str) -> DatasetRef:
        dataset = await self._datasets.get(DatasetName.parse(name))
        return DatasetRef(
            name=name, key=dataset.data_key, sha256=dataset.sha256, format=dataset.format.value
        )


def _key(lease: Lease) -> LeaseKey:
    return LeaseKey(job=str(lease.job), epoch=lease.epoch)


async def _tell(worker: Worker, command: Cancel | Suspend) -> None:
    try:
        await worker.send(command)
    except WorkerLost:
        return  # its slot sees the same, and knows what to do
