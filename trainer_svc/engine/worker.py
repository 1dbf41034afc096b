"""One job after another, from its assignment to its uploaded files."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

import structlog

from tailorbird.errors import FailedPrecondition, NotFound, TailorbirdError, Unavailable
from tailorbird.local_disk import is_disk_full
from tailorbird.names import AdapterName, JobName
from tailorbird.object_store import ObjectStore
from trainer_svc.engine.data.hyperparameters import resolve, sequence_limit
from trainer_svc.engine.data.tokens import Example, read_examples, split
from trainer_svc.engine.loop import Ending, Member, StepLoop, evaluate
from trainer_svc.engine.result.checkpoint import Checkpoints
from trainer_svc.engine.result.package import Package, build_package, describe, upload
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.engine.step.run import Run
from trainer_svc.jobs.model import DataReport, EventPayload, JobError, Prepared, Resumed
from trainer_svc.protocol import (
    Assignment,
    Cancel,
    Cancelled,
    DatasetRef,
    Evaluating,
    Failed,
    LeaseKey,
    Reported,
    Start,
    Suspend,
    Suspended,
    Trained,
    Upload,
    Uploaded,
    WorkerSettings,
)
from trainer_svc.record import Record

AnyCommand = Start | Upload | Cancel | Suspend

log = structlog.get_logger(__name__)


class Worker:
    """Takes commands from `inbox` and answers with `send`; see `trainer_svc.protocol`."""

    def __init__(
        self,
        settings: WorkerSettings,
        bank: AdapterBank,
        store: ObjectStore,
        runner: asyncio.Runner,
        inbox: SimpleQueue[AnyCommand],
        send: Callable[[Record], None],
    ) -> None:
        self._settings = settings
        self._bank = bank
        self._store = store
        self._runner = runner
        self._inbox = inbox
        self._send = send
        self._scratch = Path(settings.scratch_dir)

    def serve(self) -> None:
        """Take one job after another, for ever."""
        while True:
            command = self._inbox.get()
            if isinstance(command, Start):
                self._job(command.assignment)
            else:
                log.info("too late", command=command.kind, lease=command.lease)

    def _job(self, assignment: Assignment) -> None:
        job = assignment.lease.job
        try:
            self._clear_scratch()
            self._work(assignment)
        except TailorbirdError as error:
            log.warning("job failed", job=job, reason=error.reason, error=error.message)
            failure = JobError(reason=error.reason, message=error.message, metadata=error.metadata)
            self._fail(assignment, failure, retryable=isinstance(error, Unavailable))
        except Exception as error:
            if isinstance(error, OSError) and is_disk_full(error):
                log.warning("disk full", job=job)
                failure = JobError(reason="DISK_FULL", message="the trainer's disk is full")
                self._fail(assignment, failure, retryable=True)
            else:
                self._fail(assignment, _internal(error, job), retryable=False)
        finally:
            self._bank.detach(job)
            self._clear_scratch()

    def _work(self, assignment: Assignment) -> None:
        job = assignment.lease.job
        self._check_base(assignment)
        run = self._prepare(assignment)
        checkpoints = Checkpoints(
            self._store, self._runner, JobName.parse(job), assignment.spec_sha256
        )
        if checkpoints.restore(run) or assignment.lease.epoch > 1:
            self._report(
                assignment,
                Resumed(resumed_from_step=run.state.step, lease_epoch=assignment.lease.epoch),
            )
        loop = StepLoop(
            self._bank,
            lambda _: self._interruption(assignment.lease),
            self._settings.progress_interval,
        )
        member = Member(run, checkpoints, lambda event: self._report(assignment, event))
        ending = loop.train([member])[job]
        if ending is Ending.FINISHED:
            self._finish(assignment, run)
        else:
            self._leave(assignment, ending)

    def _check_base(self, assignment: Assignment) -> None:
        held, asked = self._settings.base_model_digest, assignment.base_model_digest
        if held != asked:
            raise FailedPrecondition(
                f"the job is for the base {asked}; this worker holds {held}",
                reason="BASE_MISMATCH",
            )

    def _prepare(self, assignment: Assignment) -> Run:
        """Attach the adapter, read the data, make every choice, and report them."""
        base, asked = self._bank.base, assignment.hyperparameters
        seed = asked.seed or 0
        adapter = self._bank.attach(assignment.lease.job, assignment.lora, seed=seed)
        limit = sequence_limit(asked.max_sequence_length, base.context)
        training, training_report = self._read(assignment.training, limit)
        validation: list[Example] = []
        validation_report: DataReport | None = None
        if assignment.validation is not None:
            validation, validation_report = self._read(assignment.validation, limit)
        elif assignment.validation_fraction is not None:
            training, validation, training_report, validation_report = split(
                training, training_report, assignment.validation_fraction, seed
            )
        hyperparameters, plan = resolve(
            asked,
            [len(example.token_ids) for example in training],
            hidden_size=base.hidden_size,
            context=base.context,
        )
        self._report(
            assignment,
            Prepared(
                training=training_report,
                validation=validation_report,
                hyperparameters=hyperparameters,
                total_steps=plan.total_steps,
                trainable_parameters=adapter.size,
            ),
        )
        return Run(assignment.lease.job, adapter, hyperparameters, plan, training, validation)

    def _read(self, ref: DatasetRef, limit: int) -> tuple[list[Example], DataReport]:
        path = self._scratch / "dataset.jsonl"
        try:
            self._runner.run(self._store.download(ref.key, path))
        except NotFound as error:
            raise NotFound(ref.name, reason="DATASET_NOT_FOUND") from error
        try:
            return read_examples(path, ref, self._bank.base.tokenizer, limit)
        finally:
            path.unlink()

    def _finish(self, assignment: Assignment, run: Run) -> None:
        """Judge and package the trained adapter, then wait for its version and upload it."""
        self._send(Evaluating(lease=assignment.lease))
        evaluate(self._bank, run, lambda event: self._report(assignment, event))
        package = build_package(
            self._scratch / "package",
            self._bank,
            run,
            run.validation or run.training,
            assignment,
            self._settings,
        )
        self._bank.detach(assignment.lease.job)
        self._send(Trained(lease=assignment.lease))
        command = self._next_command(assignment.lease)
        if isinstance(command, Upload):
            self._upload(assignment, package, command.version)
        else:
            self._leave(assignment, _ending(command))

    def _upload(self, assignment: Assignment, package: Package, version: str) -> None:
        name = AdapterName.parse(assignment.adapter).version(version)
        self._runner.run(upload(self._store, package, name))
        manifest = describe(package, name, assignment, self._settings)
        self._send(Uploaded(lease=assignment.lease, manifest=manifest))

    def _leave(self, assignment: Assignment, ending: Ending) -> None:
        left = Cancelled if ending is Ending.CANCELLED else Suspended
        self._send(left(lease=assignment.lease))

    def _fail(self, assignment: Assignment, error: JobError, *, retryable: bool) -> None:
        self._send(Failed(lease=assignment.lease, error=error, retryable=retryable))

    def _interruption(self, lease: LeaseKey) -> Ending | None:
        while not self._inbox.empty():
            command = self._inbox.get()
            if command.lease == lease and isinstance(command, Cancel | Suspend):
                return _ending(command)
        return None

    def _next_command(self, lease: LeaseKey) -> Upload | Cancel | Suspend:
        """Wait for a command under this lease; one under another came too late."""
        while True:
            command = self._inbox.get()
            if not isinstance(command, Start) and command.lease == lease:
                return command
            log.info("ignored", command=command.kind)

    def _report(self, assignment: Assignment, event: EventPayload) -> None:
        self._send(Reported(lease=assignment.lease, event=event))

    def _clear_scratch(self) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir(parents=True)


def _ending(command: Cancel | Suspend) -> Ending:
    return Ending.CANCELLED if isinstance(command, Cancel) else Ending.SUSPENDED


def _internal(error: Exception, job: str) -> JobError:
    correlation_id = uuid.uuid4().hex
    log.error("job failed", job=job, correlation_id=correlation_id, exc_info=error)
    return JobError(
        reason="INTERNAL",
        message=f"{type(error).__name__} in the worker; correlation id {correlation_id}",
        metadata={"correlation_id": correlation_id},
    )
