"""A worker that says what a test tells it to, and remembers what it was told."""

from __future__ import annotations

import asyncio
import itertools
import zlib
from collections.abc import Iterator

from tailorbird.manifest import MANIFEST
from tailorbird.object_store import ObjectStore
from tests.unit.trainer_svc.values import make_manifest
from trainer_svc.dispatch.executor import Worker, WorkerLost
from trainer_svc.jobs.events import DataReport, Prepared, StepProgress
from trainer_svc.jobs.model import Hyperparameters, Job, JobError
from trainer_svc.jobs.preflight import CheckedData, Preflight
from trainer_svc.jobs.sweep import TrialReached, rungs
from trainer_svc.protocol import (
    Assignment,
    Cancel,
    Cancelled,
    Evaluating,
    Failed,
    LeaseKey,
    Ready,
    Report,
    Reported,
    Start,
    Suspend,
    Suspended,
    SweepAssignment,
    Trained,
    Upload,
    Uploaded,
)

PREPARED = Prepared(
    training=DataReport(
        records=1, kept=1, dropped_too_long=0, dropped_lines=(), trained_tokens=1, masked_tokens=1
    ),
    validation=None,
    hyperparameters=Hyperparameters(epochs=1),
    total_steps=4,
    trainable_parameters=10,
)

PREFLIGHT = Preflight(
    training=CheckedData(
        account=PREPARED.training, too_long_fraction=0.0, median=2, longest=2, lengths=()
    ),
    validation=None,
    held_out=False,
    hyperparameters=PREPARED.hyperparameters,
    reasons={},
    total_steps=4,
)


class ScriptedChecks:
    """Finds the same of every job's data, and keeps what it was asked for."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    async def check(self, job: Job) -> Preflight:
        self.jobs.append(job)
        return PREFLIGHT


READY = Ready(
    device="cpu",
    dtype="bfloat16",
    compute_dtype="float32",
    attention="segments",
    optimizer="adamw_fused",
    gradient_checkpointing=False,
)


def mark(job: str) -> float:
    """Return a figure that shows whose report it stands in."""
    return zlib.crc32(job.encode()) / 2**32


def step(number: int, job: str = "") -> StepProgress:
    return StepProgress(
        step=number,
        total_steps=4,
        epoch=0.5,
        loss=1.0,
        learning_rate=mark(job),
        gradient_norm=1.0,
        tokens=10 * number,
        tokens_per_second=1.0,
        eta_seconds=1.0,
        update_to_weight_ratio=0.002,
        worker_memory_bytes=2**33,
    )


class ScriptedWorker:
    """Trains each job in four steps; at `hold` it waits, for a command or to `go_on`.

    Of a sweep the trials come to each rung one after the other, the first with the lowest loss.

    At `death` it dies. Both are for every job, or only for the one with the id `only`.
    """

    def __init__(self, store: ObjectStore, hold: str = "", death: str = "", only: str = "") -> None:
        self.store = store
        self.hold = hold
        self.death = death
        self.only = only
        self.from_outside = False
        """Whether its death is no job's doing."""
        self.base = ""
        self.commands: list[Start | Upload | Cancel | Suspend] = []
        self.held = asyncio.Event()
        self.closed = asyncio.Event()
        self._assignments: dict[LeaseKey, Assignment] = {}
        self._rest: dict[LeaseKey, Iterator[tuple[str, Report]]] = {}
        self._reports: asyncio.Queue[Report | None] = asyncio.Queue()

    @property
    def assignment(self) -> Assignment:
        return next(c.assignment for c in reversed(self.commands) if isinstance(c, Start))

    @property
    def jobs(self) -> list[str]:
        """The ids of the jobs it was given, in order."""
        started = [c.lease.job for c in self.commands if isinstance(c, Start)]
        return [job.rpartition("/")[2] for job in started]

    def told(self, kind: type[Cancel | Suspend]) -> list[str]:
        """The ids of the jobs it was told this of."""
        told = [c.lease.job for c in self.commands if isinstance(c, kind)]
        return [job.rpartition("/")[2] for job in told]

    async def send(self, command: Start | Upload | Cancel | Suspend) -> None:
        if self.closed.is_set():
            self.die()
            raise WorkerLost("closed")
        self.commands.append(command)
        match command:
            case Start(assignment=assignment):
                assert self.base in {"", assignment.base_model_digest}
                self._assignments[command.lease] = assignment
                self._rest[command.lease] = _training(assignment)
                self._play(command.lease)
            case Upload(version=version):
                name = f"{self._assignments[command.lease].adapter}/versions/{version}"
                await self.store.create(f"{name}/adapter_config.json", b"{}")
                uploaded = Uploaded(lease=command.lease, manifest=make_manifest(name))
                self._rest[command.lease] = iter([("upload", uploaded)])
                self._play(command.lease)
            case Cancel():
                self.say(Cancelled(lease=command.lease))
            case Suspend():
                self.say(Suspended(lease=command.lease))

    async def receive(self) -> Report:
        report = await self._reports.get()
        if report is None:
            raise WorkerLost("died", from_outside=self.from_outside)
        return report

    async def close(self) -> None:
        self.closed.set()

    def say(self, report: Report) -> None:
        self._reports.put_nowait(report)

    def die(self) -> None:
        self._reports.put_nowait(None)

    def go_on(self) -> None:
        """Hold nothing back any more."""
        self.hold = ""
        for lease in list(self._rest):
            self._play(lease)

    def fail(self, *, retryable: bool = False, reason: str = "BROKEN") -> None:
        error = JobError(reason=reason, message="as the test wants")
        self.say(Failed(lease=self.assignment.lease, error=error, retryable=retryable))

    def _play(self, lease: LeaseKey) -> None:
        meant = self.only in {"", lease.job.rpartition("/")[2]}
        for at, report in self._rest[lease]:
            if at and at == self.death and meant:
                self.die()
                return
            if at and at == self.hold and meant:
                self._rest[lease] = itertools.chain([(at, report)], self._rest[lease])
                self.held.set()
                return
            self.say(report)


def _training(assignment: Assignment) -> Iterator[tuple[str, Report]]:
    lease = assignment.lease
    yield "prepared", Reported(lease=lease, event=PREPARED)
    if assignment.sweep is not None:
        yield from _rungs(lease, assignment.sweep)
    for number in range(1, 5):
        yield f"step-{number}", Reported(lease=lease, event=step(number, lease.job))
    yield "evaluating", Evaluating(lease=lease)
    yield "trained", Trained(lease=lease)


def _rungs(lease: LeaseKey, sweep: SweepAssignment) -> Iterator[tuple[str, Report]]:
    known = sweep.results
    compared = rungs(len(sweep.spec.trials), sweep.spec.asked.eta)
    for number, rung in list(enumerate(compared))[known.decided :]:
        for trial in [each for each in known.active if each not in known.at_rung()]:
            reached = TrialReached(
                trial=trial,
                rung=number,
                step=rung.step(8),
                total_steps=8,
                learning_rate=sweep.spec.trials[trial].learning_rate or 0.5,
                epochs=sweep.spec.trials[trial].epochs or 2,
                validation_loss=1.0 + trial / 10 - number / 100,
            )
            known = known.after(reached)
            yield f"reached-{number}-{trial}", Reported(lease=lease, event=reached)
        decided = known.decide(rung.keep)
        known = known.after(decided)
        yield f"decided-{number}", Reported(lease=lease, event=decided)


class ScriptedExecutor:
    """Hands out the workers given, or fails to, then workers that hold nothing back."""

    def __init__(self, store: ObjectStore, *workers: ScriptedWorker | Exception) -> None:
        self.store = store
        self.waiting = list(workers)
        self.started: list[ScriptedWorker] = []
        self.bases: list[str] = []
        """The base of each start, those that failed among them."""

    async def start(self, index: int, base: str) -> Worker:
        self.bases.append(base.removeprefix("sha256:"))
        worker = self.waiting.pop(0) if self.waiting else ScriptedWorker(self.store)
        if isinstance(worker, Exception):
            raise worker
        worker.base = base
        self.started.append(worker)
        return worker


async def published(store: ObjectStore) -> list[str]:
    return sorted([i.key async for i in store.objects("tenants") if i.key.endswith(f"/{MANIFEST}")])
