"""One run's way from its data to trained weights: attached, resumed or begun, trained, kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TypeVar

import structlog
import torch

from tailorbird.errors import DataCorrupt
from tailorbird.names import JobName
from tailorbird.object_store import ObjectStore
from trainer_svc.engine.data.files import DatasetFiles
from trainer_svc.engine.elsewhere import finished, stoppable
from trainer_svc.engine.judging.references import References
from trainer_svc.engine.judging.screening import Screening
from trainer_svc.engine.loop import MICRO_TOKENS, StepThread
from trainer_svc.engine.parent import begin_with, check_manifest, fetch_weights
from trainer_svc.engine.preparation import Preparation, Preparer
from trainer_svc.engine.result.checkpoint import Checkpoints, MadeFor
from trainer_svc.engine.result.checkpoint_writer import CheckpointWriter
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.engine.step.run import Run
from trainer_svc.engine.training.member import Ending, Member
from trainer_svc.jobs.events import EventPayload, Resumed
from trainer_svc.protocol import Assignment, WorkerSettings
from trainer_svc.record import Record

T = TypeVar("T")

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Tools:
    """What all jobs of a worker work with. `send` takes a report, from any thread."""

    settings: WorkerSettings
    bank: AdapterBank
    steps: StepThread
    store: ObjectStore
    files: DatasetFiles
    preparer: Preparer
    references: References
    screening: Screening | None
    send: Callable[[Record], None]


@dataclass(frozen=True)
class Lessee:
    """Who holds the lease that a run is of: it hears of the run, and may be asked to end."""

    report: Callable[[EventPayload], None]
    """From any thread."""
    check: Callable[[Preparation], Awaitable[None]]
    """Refuses data on which the result could not be judged, before anything is trained."""
    ending: Callable[[], Ending | None]
    """How it was asked to end, if it was."""
    disk_full: Callable[[], None]
    """A checkpoint found no room."""


@dataclass(frozen=True)
class TrainedRun:
    """A run that is trained and attached to the base as its job, and what it was made from."""

    run: Run
    data: Preparation
    assignment: Assignment
    """Of a sweep: the job's, with the best trial's settings."""


class Device:
    """The step thread as a phase uses it: what it awaits there outlasts its cancellation."""

    def __init__(self, steps: StepThread) -> None:
        self._steps = steps

    async def pieces(self, work: Generator[None, None, T]) -> T:
        """Run `work` on the step thread, piece by piece between the passes of others."""
        stop = Event()
        return await finished(self._steps.pieces(stoppable(work, stop)), stop.set)

    async def on_step_thread(self, action: Callable[[], T]) -> T:
        """Run `action` on the step thread, between two passes."""
        future = self._steps.call(action)
        return await finished(future, future.cancel)


class Course:
    """Takes one run through its training. `name` is what its adapter is attached as."""

    def __init__(
        self,
        name: str,
        assignment: Assignment,
        tools: Tools,
        lessee: Lessee,
        *,
        trial: int | None = None,
    ) -> None:
        settings = tools.settings
        made_for = MadeFor(
            spec_sha256=assignment.spec_sha256,
            base_model_digest=settings.base_model_digest,
            chat_template_digest=settings.chat_template_digest,
        )
        lease = assignment.lease
        self.run: Run | None = None
        """The run, while it is attached."""
        self._name = name
        self._assignment = assignment
        self._tools = tools
        self._lessee = lessee
        self._device = Device(tools.steps)
        self._checkpoints = Checkpoints(
            tools.store, JobName.parse(lease.job), made_for, epoch=lease.epoch, trial=trial
        )
        self._writer: CheckpointWriter | None = None
        self._weights: dict[str, torch.Tensor] | None = None

    async def trained(self, folder: Path) -> TrainedRun:
        """Train a job of its own, from the data to its last step, and report what is chosen."""
        lease, report = self._assignment.lease, self._lessee.report
        await self.check_version()
        data = await self._tools.preparer.prepare(self._assignment, folder)
        await self._lessee.check(data)
        resumed = await self.attach(data)
        run = self._attached()
        for event in data.told(run.adapter.size):
            report(event)
        if resumed or lease.epoch > 1:
            report(Resumed(resumed_from_step=run.state.step, lease_epoch=lease.epoch))
        await self.begin()
        await self.train()
        return TrainedRun(run, data, self._assignment)

    async def check_version(self) -> None:
        """Refuse a version that cannot be trained on before minutes are spent on the data.

        With a checkpoint the run may need it no more.
        """
        tools, assignment = self._tools, self._assignment
        if assignment.from_version and not await self._checkpoints.any():
            shapes = await self._device.on_step_thread(lambda: tools.bank.shapes(assignment.lora))
            await check_manifest(tools.store, assignment, shapes)

    async def attach(self, data: Preparation) -> bool:
        """Attach the adapter, at its newest checkpoint; return whether there was one.

        Its weights go before those of the version that the run trains on from.
        """
        self._checkpoints.held_out_by(data.draw)
        run = self.run = await self._device.on_step_thread(lambda: self._made(data))
        resumed = await self._resume(run)
        if not resumed and self._assignment.from_version:
            self._weights = await fetch_weights(
                self._tools.store,
                self._assignment,
                {name: tuple(matrix.shape) for name, matrix in run.adapter.parameters.items()},
            )
        return resumed

    async def begin(self) -> None:
        """Give the run its first weights, where it has them from a version."""
        weights, self._weights = self._weights, None
        if weights is not None:
            report, bank = self._lessee.report, self._tools.bank
            work = begin_with(bank, self._attached(), weights, MICRO_TOKENS, report)
            await self._device.pieces(work)

    async def train(self, until: int | None = None) -> None:
        """Take the steps up to `until`, or to the end; then the adapter is the best it was."""
        run = self._attached()
        run.until = until

        def interrupt() -> None:
            self._tools.steps.interrupt(self._name, self._lessee.ending() or Ending.CANCELLED)

        if self._writer is None:
            self._writer = CheckpointWriter(
                self._checkpoints, self._lessee.report, self._lessee.disk_full
            )
        member = Member(run, self._lessee.report, self._writer.keep, self._writer.busy)
        await finished(self._tools.steps.join(member), interrupt)

    async def rename(self, name: str) -> None:
        """Let the adapter be attached as something else; the run takes no step after that."""
        run = self._attached()

        def renamed() -> None:
            # All at once: a cancellation that comes meanwhile finds the adapter by its name.
            self._tools.bank.rename(self._name, name)
            self._name = run.job = name

        await self._device.on_step_thread(renamed)

    async def written(self) -> None:
        """Wait until every checkpoint taken so far is written, or could not be."""
        if self._writer is not None:
            await self._writer.written()

    async def stop(self) -> None:
        """Write no more checkpoints; nobody else does until this returns."""
        if self._writer is not None:
            await self._writer.stop()

    async def detach(self) -> None:
        """Take the adapter off the base, where it is, and let go of the run."""
        self.run = None
        await self._device.on_step_thread(lambda: self._tools.bank.detach(self._name))

    async def forget(self) -> None:
        """Take the adapter off the base, and delete its checkpoints; StoreUnavailable."""
        await self.stop()
        await self.detach()
        await self._checkpoints.delete()

    def _attached(self) -> Run:
        if self.run is None:
            raise ValueError(f"{self._name} is not attached")
        return self.run

    def _made(self, data: Preparation) -> Run:
        chosen, plan = data.choice.hyperparameters, data.choice.plan
        lora = self._assignment.lora
        adapter = self._tools.bank.attach(self._name, lora, seed=chosen.seed or 0)
        return Run(
            self._name,
            adapter,
            chosen,
            plan,
            data.training,
            data.validation,
            from_version=self._assignment.from_version,
        )

    async def _resume(self, run: Run) -> bool:
        """Bring the run to its newest checkpoint that fits; False if there is none."""
        while (found := await self._checkpoints.restore()) is not None:
            latest, best = found.latest, found.best
            try:
                await self._device.on_step_thread(lambda: run.restore(latest, best))  # noqa: B023
            except DataCorrupt as error:
                log.warning("checkpoint unusable", run=self._name, error=error.message)
                await self._checkpoints.discard(found)
            else:
                await self._checkpoints.take_over(found)
                return True
        return False
