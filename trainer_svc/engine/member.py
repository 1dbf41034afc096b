"""One job's way through a worker under one lease: prepare, train, judge, package, upload.

Only training and judging need the step thread, and they share it with the other jobs. A Cancel or
a Suspend is seen in every phase: it cancels whatever the job waits for, and what another thread
does for the job is over before its adapter and its folder go.
"""

from __future__ import annotations

import asyncio
import shutil
import traceback
import uuid
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TypeVar

import structlog
import torch

from tailorbird.errors import DataCorrupt, FailedPrecondition
from tailorbird.manifest import AdapterManifest
from tailorbird.names import AdapterName, JobName
from tailorbird.object_store import ObjectStore
from trainer_svc.engine.elsewhere import finished, in_thread, stoppable
from trainer_svc.engine.failures import disk_full, failure, ran_out_of_disk
from trainer_svc.engine.judging.examination import Examiner
from trainer_svc.engine.judging.references import References
from trainer_svc.engine.judging.verdict import Verdict, verdict
from trainer_svc.engine.loop import MICRO_TOKENS, StepThread
from trainer_svc.engine.parent import begin_with, check_manifest, fetch_weights
from trainer_svc.engine.preparation import Preparation, Preparer
from trainer_svc.engine.result.checkpoint import Checkpoints, MadeFor
from trainer_svc.engine.result.checkpoint_writer import CheckpointWriter
from trainer_svc.engine.result.judging import Judged, judge
from trainer_svc.engine.result.package import Package, Result, build_package, describe, upload
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.engine.step.run import Run
from trainer_svc.engine.training.member import Ending, Member
from trainer_svc.jobs.model import EventPayload, JobError, Resumed
from trainer_svc.protocol import (
    Assignment,
    Cancel,
    Cancelled,
    Evaluating,
    Reported,
    Suspend,
    Suspended,
    Trained,
    Upload,
    Uploaded,
    WorkerSettings,
)
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
    preparer: Preparer
    references: References
    send: Callable[[Record], None]


class JobTask:
    """Runs one job; the commands of its lease come by `take`, in the same event loop."""

    def __init__(self, assignment: Assignment, tools: Tools) -> None:
        self.lease = assignment.lease
        self.shared = False
        """Whether the worker had another job at any time of this one."""
        self._job = assignment.lease.job
        self._assignment = assignment
        self._tools = tools
        self._folder = Path(tools.settings.scratch_dir) / "jobs" / uuid.uuid4().hex
        self._phases: asyncio.Task[AdapterManifest] | None = None
        self._saving: asyncio.Task[None] | None = None
        self._writer: CheckpointWriter | None = None
        self._version: asyncio.Future[str] | None = None
        self._ending: Ending | None = None
        self._error: JobError | None = None

    def take(self, command: Upload | Cancel | Suspend) -> None:
        """Do what the command says; an Upload that nobody waits for is dropped."""
        match command:
            case Cancel():
                self._interrupt(Ending.CANCELLED)
            case Suspend():
                self._interrupt(Ending.SUSPENDED)
            case Upload(version=version):
                if self._version is not None and not self._version.done():
                    self._version.set_result(version)

    async def run(self) -> None:
        """Go through the phases; the last report goes out when nothing of the job is left here."""
        last = await self._outcome() or await self._interrupted()
        try:
            await self._clear()
        except Exception:
            log.exception("a job left something behind", job=self._job)
        self._let_go()
        self._tools.send(last)

    def _let_go(self) -> None:
        """Forget what ended the phases: its frames hold the run, its data and its device memory.

        Without this they stay until a garbage collection. Not before `_clear`: the step thread may
        be in one of the frames until its next boundary, and a frame at work cannot be cleared.
        """
        phases, self._phases = self._phases, None
        if phases is None or phases.cancelled():
            return
        if (error := phases.exception()) is not None:
            traceback.clear_frames(error.__traceback__)

    def _interrupt(self, ending: Ending, error: JobError | None = None) -> None:
        """Have the phase under way end. A Cancel overrides what was asked before."""
        first = self._ending is None
        if first or ending is Ending.CANCELLED:
            self._ending, self._error = ending, error
        if first and self._phases is not None:
            self._phases.cancel()
        if ending is Ending.CANCELLED and self._saving is not None:
            self._saving.cancel()

    async def _outcome(self) -> Record | None:
        """Go through the phases; None if they were interrupted."""
        try:
            if self._ending is None:
                self._phases = asyncio.create_task(self._through_phases())
                return Uploaded(lease=self.lease, manifest=await self._phases)
        except (Exception, asyncio.CancelledError) as error:
            if self._ending is None and not ran_out_of_disk(error):
                return failure(self.lease, error, shared=self.shared)
            if self._ending is None:
                self._ending, self._error = Ending.SUSPENDED, disk_full()
        return None

    async def _interrupted(self) -> Record:
        if self._ending is Ending.SUSPENDED and self._writer is not None:
            self._saving = asyncio.create_task(self._writer.written())
            await asyncio.wait({self._saving})
        if self._ending is Ending.CANCELLED:
            return Cancelled(lease=self.lease)
        return Suspended(lease=self.lease, error=self._error)

    async def _clear(self) -> None:
        if self._writer is not None:
            await self._writer.stop()
        await self._detach()
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def _through_phases(self) -> AdapterManifest:
        package = await self._trained_package()
        self._version = asyncio.get_running_loop().create_future()
        self._tools.send(Trained(lease=self.lease))
        name = AdapterName.parse(self._assignment.adapter).version(await self._version)
        await upload(self._tools.store, package, name)
        return await in_thread(
            lambda _: describe(package, name, self._assignment, self._tools.settings)
        )

    async def _trained_package(self) -> Package:
        """Prepare, train, judge and package. The adapter is off the base after that."""
        assignment, tools = self._assignment, self._tools
        self._check_base()
        self._folder.mkdir(parents=True)
        checkpoints = self._checkpoints()
        run, data = await self._prepare(checkpoints)
        await self._train(run, checkpoints)
        tools.send(Evaluating(lease=self.lease))
        judged = await self._judge(run)
        examined = await self._examine(data)
        await self._detach()
        result = Result(
            run=run,
            judged=judged,
            training_data=data.training_report,
            validation_data=data.validation_report,
            judgement=None if examined is None else examined.judgement,
            decision=None if examined is None else examined.decision,
        )
        return await in_thread(
            lambda _: build_package(self._folder / "package", result, assignment, tools.settings)
        )

    def _check_base(self) -> None:
        held, asked = self._tools.settings.base_model_digest, self._assignment.base_model_digest
        if held != asked:
            raise FailedPrecondition(
                f"the job is for the base {asked}; this worker holds {held}",
                reason="BASE_MISMATCH",
            )

    async def _prepare(self, checkpoints: Checkpoints) -> tuple[Run, Preparation]:
        """Read the data, attach the adapter, give it its first weights; report what is chosen.

        Those of a checkpoint go before those of the version that the job trains on from.
        """
        await self._check_version(checkpoints)
        data = await self._tools.preparer.prepare(self._assignment, self._folder)
        if self._is_judged(data):
            await self._examiner(data).check()
        run = await self.on_step_thread(lambda: self._begun(data))
        resumed = await self._resume(run, checkpoints)
        weights = None if resumed else await self._weights(run)
        for event in data.told(run.adapter.size):
            self._report(event)
        if resumed or self.lease.epoch > 1:
            self._report(Resumed(resumed_from_step=run.state.step, lease_epoch=self.lease.epoch))
        if weights is not None:
            await self.pieces(
                begin_with(self._tools.bank, run, weights, MICRO_TOKENS, self._report)
            )
        return run, data

    async def _check_version(self, checkpoints: Checkpoints) -> None:
        """Refuse a version that cannot be trained on before minutes are spent on the data.

        With a checkpoint the job may need it no more.
        """
        tools, assignment = self._tools, self._assignment
        if assignment.from_version and not await checkpoints.any():
            shapes = await self.on_step_thread(lambda: tools.bank.shapes(assignment.lora))
            await check_manifest(tools.store, assignment, shapes)

    async def _weights(self, run: Run) -> dict[str, torch.Tensor] | None:
        if not self._assignment.from_version:
            return None
        shapes = {name: tuple(matrix.shape) for name, matrix in run.adapter.parameters.items()}
        return await fetch_weights(self._tools.store, self._assignment, shapes)

    def _begun(self, data: Preparation) -> Run:
        chosen, plan = data.choice.hyperparameters, data.choice.plan
        adapter = self._tools.bank.attach(self._job, self._assignment.lora, seed=chosen.seed or 0)
        return Run(
            self._job,
            adapter,
            chosen,
            plan,
            data.training,
            data.validation,
            from_version=self._assignment.from_version,
        )

    def _checkpoints(self) -> Checkpoints:
        settings = self._tools.settings
        made_for = MadeFor(
            spec_sha256=self._assignment.spec_sha256,
            base_model_digest=settings.base_model_digest,
            chat_template_digest=settings.chat_template_digest,
        )
        return Checkpoints(self._tools.store, JobName.parse(self._job), made_for)

    async def _resume(self, run: Run, checkpoints: Checkpoints) -> bool:
        """Bring the run to its newest checkpoint that fits; False if there is none."""
        while (found := await checkpoints.restore()) is not None:
            latest, best = found.latest, found.best
            try:
                await self.on_step_thread(lambda: run.restore(latest, best))  # noqa: B023
            except DataCorrupt as error:
                log.warning("checkpoint unusable", job=self._job, error=error.message)
                await checkpoints.discard(latest.step)
            else:
                return True
        return False

    async def _train(self, run: Run, checkpoints: Checkpoints) -> None:
        def interrupt() -> None:
            self._tools.steps.interrupt(self._job, self._ending or Ending.CANCELLED)

        self._writer = CheckpointWriter(
            checkpoints,
            self._report,
            lambda: self._interrupt(Ending.SUSPENDED, disk_full()),
        )
        member = Member(run, self._report, self._writer.keep, self._writer.busy)
        await finished(self._tools.steps.join(member), interrupt)

    async def _judge(self, run: Run) -> Judged:
        return await self.pieces(judge(self._tools.bank, run, MICRO_TOKENS, self._report))

    async def _examine(self, data: Preparation) -> Verdict | None:
        """Have the held-out records answered, where any are asked for."""
        if not self._is_judged(data):
            return None
        found = await verdict(self._examiner(data))
        self._report(found.event)
        return found

    def _is_judged(self, data: Preparation) -> bool:
        asked = bool(data.chosen.held_out) or self._assignment.hold_out
        return asked and self._assignment.evaluation.max_records > 0

    def _examiner(self, data: Preparation) -> Examiner:
        return Examiner(
            bank=self._tools.bank,
            store=self._tools.store,
            device=self,
            assignment=self._assignment,
            chosen=data.chosen,
            references=self._tools.references,
            folder=self._folder,
            micro_tokens=MICRO_TOKENS,
        )

    async def _detach(self) -> None:
        await self.on_step_thread(lambda: self._tools.bank.detach(self._job))

    async def pieces(self, work: Generator[None, None, T]) -> T:
        """Run `work` on the step thread, piece by piece between the passes of others."""
        stop = Event()
        return await finished(self._tools.steps.pieces(stoppable(work, stop)), stop.set)

    async def on_step_thread(self, action: Callable[[], T]) -> T:
        """Run `action` on the step thread, between two passes."""
        future = self._tools.steps.call(action)
        return await finished(future, future.cancel)

    def _report(self, event: EventPayload) -> None:
        self._tools.send(Reported(lease=self.lease, event=event))
