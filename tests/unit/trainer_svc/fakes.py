"""A worker that says what a test tells it to, and remembers what it was told."""

from __future__ import annotations

import asyncio

from tailorbird.manifest import MANIFEST
from tailorbird.object_store import ObjectStore
from tests.unit.trainer_svc.values import make_manifest
from trainer_svc.dispatch.executor import Worker, WorkerLost
from trainer_svc.jobs.model import DataReport, Hyperparameters, JobError, Prepared, StepProgress
from trainer_svc.protocol import (
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

PREPARED = Prepared(
    training=DataReport(
        records=1, kept=1, dropped_too_long=0, dropped_lines=(), trained_tokens=1, masked_tokens=1
    ),
    validation=None,
    hyperparameters=Hyperparameters(epochs=1),
    total_steps=4,
    trainable_parameters=10,
)


def step(number: int) -> StepProgress:
    return StepProgress(
        step=number,
        total_steps=4,
        epoch=0.5,
        loss=1.0,
        learning_rate=1e-3,
        gradient_norm=1.0,
        tokens=10 * number,
        tokens_per_second=1.0,
        eta_seconds=1.0,
    )


class ScriptedWorker:
    """Trains in four steps; at `hold` it waits for the next command instead of going on."""

    def __init__(self, store: ObjectStore, hold: str = "", death: str = "") -> None:
        self.store = store
        self.hold = hold
        self.death = death
        self.commands: list[Start | Upload | Cancel | Suspend] = []
        self.held = asyncio.Event()
        self.closed = asyncio.Event()
        self._reports: asyncio.Queue[Report | None] = asyncio.Queue()

    @property
    def assignment(self) -> Assignment:
        return next(c.assignment for c in reversed(self.commands) if isinstance(c, Start))

    async def send(self, command: Start | Upload | Cancel | Suspend) -> None:
        if self.closed.is_set():
            raise WorkerLost("closed")
        self.commands.append(command)
        match command:
            case Start(assignment=assignment):
                await self._train(assignment)
            case Upload(version=version):
                name = f"{self.assignment.adapter}/versions/{version}"
                await self.store.create(f"{name}/adapter_config.json", b"{}")
                self._say("upload", Uploaded(lease=command.lease, manifest=make_manifest(name)))
            case Cancel():
                self._say("", Cancelled(lease=command.lease))
            case Suspend():
                self._say("", Suspended(lease=command.lease))

    async def receive(self) -> Report:
        report = await self._reports.get()
        if report is None:
            raise WorkerLost("died")
        return report

    async def close(self) -> None:
        self.closed.set()

    def die(self) -> None:
        self._reports.put_nowait(None)

    def fail(self, *, retryable: bool = False) -> None:
        error = JobError(reason="BROKEN", message="as the test wants")
        lease = self.assignment.lease
        self._reports.put_nowait(Failed(lease=lease, error=error, retryable=retryable))

    async def _train(self, assignment: Assignment) -> None:
        lease = assignment.lease
        self._say("", Reported(lease=lease, event=PREPARED))
        for number in range(1, 5):
            if not self._say(f"step-{number}", Reported(lease=lease, event=step(number))):
                return
        if self._say("evaluating", Evaluating(lease=lease)):
            self._say("trained", Trained(lease=lease))

    def _say(self, at: str, report: Report) -> bool:
        if at and at == self.death:
            self.die()
            return False
        if at and at == self.hold:
            self.held.set()
            return False
        self._reports.put_nowait(report)
        return True


class ScriptedExecutor:
    """Hands out the workers given, or fails to, then workers that hold nothing back."""

    def __init__(self, store: ObjectStore, *workers: ScriptedWorker | Exception) -> None:
        self.store = store
        self.waiting = list(workers)
        self.started: list[ScriptedWorker] = []

    async def start(self, index: int) -> Worker:
        worker = self.waiting.pop(0) if self.waiting else ScriptedWorker(self.store)
        if isinstance(worker, Exception):
            raise worker
        self.started.append(worker)
        return worker


async def published(store: ObjectStore) -> list[str]:
    return sorted([i.key async for i in store.objects("tenants") if i.key.endswith(f"/{MANIFEST}")])
