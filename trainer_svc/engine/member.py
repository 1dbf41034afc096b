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
from pathlib import Path
from typing import Protocol

import structlog

from tailorbird.errors import FailedPrecondition
from tailorbird.manifest import AdapterManifest
from tailorbird.names import AdapterName
from trainer_svc.engine.course import Course, Device, Lessee, Tools, TrainedRun
from trainer_svc.engine.elsewhere import in_thread
from trainer_svc.engine.failures import disk_full, failure, ran_out_of_disk
from trainer_svc.engine.judging.examination import Examiner
from trainer_svc.engine.judging.screening import Screened
from trainer_svc.engine.judging.verdict import Verdict, verdict
from trainer_svc.engine.loop import MICRO_TOKENS
from trainer_svc.engine.preparation import Preparation
from trainer_svc.engine.result.judging import Judged, judge
from trainer_svc.engine.result.package import Package, Result, build_package, describe, upload
from trainer_svc.engine.result.servable import check_servable
from trainer_svc.engine.sweep.sweeping import Sweeping
from trainer_svc.engine.training.member import Ending
from trainer_svc.jobs.events import EventPayload
from trainer_svc.jobs.model import JobError
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
)
from trainer_svc.record import Record

log = structlog.get_logger(__name__)


class Training(Protocol):
    """How a job gets to its trained weights: by one run, or by a sweep's."""

    async def trained(self, folder: Path) -> TrainedRun:
        """Train; `folder` is the job's own."""

    async def written(self) -> None:
        """Wait until every checkpoint taken so far is written, or could not be."""

    async def stop(self) -> None:
        """Write no more checkpoints."""

    async def detach(self) -> None:
        """Take whatever is attached off the base."""


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
        self._device = Device(tools.steps)
        self._training: Training | None = None
        self._version: asyncio.Future[str] | None = None
        self._ending: Ending | None = None
        self._error: JobError | None = None
        self._screened: Screened | None = None

    @property
    def _crowded(self) -> bool:
        """Whether the job trains several adapters at a time, and may be tried with fewer."""
        sweep = self._assignment.sweep
        return sweep is not None and min(sweep.at_once, len(sweep.results.active)) > 1

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
        phases, self._phases, self._training = self._phases, None, None
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
                return failure(self.lease, error, shared=self.shared or self._crowded)
            if self._ending is None:
                self._ending, self._error = Ending.SUSPENDED, disk_full()
        return None

    async def _interrupted(self) -> Record:
        if self._ending is Ending.SUSPENDED and self._training is not None:
            self._saving = asyncio.create_task(self._training.written())
            await asyncio.wait({self._saving})
        if self._ending is Ending.CANCELLED:
            return Cancelled(lease=self.lease)
        return Suspended(lease=self.lease, error=self._error)

    async def _clear(self) -> None:
        if self._training is not None:
            await self._training.stop()
            await self._training.detach()
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def _through_phases(self) -> AdapterManifest:
        package, assignment = await self._trained_package()
        self._version = asyncio.get_running_loop().create_future()
        self._tools.send(Trained(lease=self.lease))
        name = AdapterName.parse(assignment.adapter).version(await self._version)
        await upload(self._tools.store, package, name)
        return await in_thread(lambda _: describe(package, name, assignment, self._tools.settings))

    async def _trained_package(self) -> tuple[Package, Assignment]:
        """Prepare, train, judge and package. The adapter is off the base after that."""
        tools = self._tools
        self._check_base()
        self._folder.mkdir(parents=True)
        training = self._training = self._way()
        found = await training.trained(self._folder)
        data, assignment = found.data, found.assignment
        tools.send(Evaluating(lease=self.lease))
        judged = await self._judge(found)
        examined = await self._examine(found)
        await training.detach()
        result = Result(
            run=found.run,
            judged=judged,
            training_data=data.training_report,
            validation_data=data.validation_report,
            judgement=None if examined is None else examined.judgement,
            decision=None if examined is None else examined.decision,
            screened=self._screened.records if self._screened else None,
            training_safety=self._screened.findings if self._screened else (),
        )
        package = await in_thread(
            lambda _: build_package(self._folder / "package", result, assignment, tools.settings)
        )
        return package, assignment

    def _check_base(self) -> None:
        held, asked = self._tools.settings.base_model_digest, self._assignment.base_model_digest
        if held != asked:
            raise FailedPrecondition(
                f"the job is for the base {asked}; this worker holds {held}",
                reason="BASE_MISMATCH",
            )

    def _way(self) -> Training:
        assignment, tools = self._assignment, self._tools
        lessee = Lessee(
            report=self._report,
            check=self._check,
            ending=lambda: self._ending,
            disk_full=lambda: self._interrupt(Ending.SUSPENDED, disk_full()),
        )
        if assignment.sweep is not None:
            return Sweeping(assignment, assignment.sweep, tools, lessee)
        return Course(assignment.lease.job, assignment, tools, lessee)

    async def _judge(self, found: TrainedRun) -> Judged:
        bank = self._tools.bank
        judged = await self._device.pieces(
            judge(bank, found.run, MICRO_TOKENS, self._report, found.data.chats)
        )
        await in_thread(lambda _: check_servable(judged, bank.base.dtype))
        return judged

    async def _examine(self, found: TrainedRun) -> Verdict | None:
        """Have the held-out records answered, where any are asked for."""
        data, assignment = found.data, found.assignment
        if not self._is_judged(data):
            return None
        judged = await verdict(self._examiner(data, assignment))
        self._report(judged.event)
        return judged

    async def _check(self, data: Preparation) -> None:
        """Refuse data on which the result could not be judged by what is asked.

        What is held against the operator's screen is told, whether it will be judged or not.
        """
        if self._is_judged(data):
            await self._examiner(data, self._assignment).check()
        screening = self._tools.screening
        if screening is None:
            return
        training = self._assignment.training
        self._screened = await screening.of(training, data.training.lines, self._folder)
        for warning in self._screened.warnings:
            self._report(warning)

    def _is_judged(self, data: Preparation) -> bool:
        asked = bool(data.chosen.held_out or data.chosen.leaked) or self._assignment.hold_out
        return asked and self._assignment.evaluation.max_records > 0

    def _examiner(self, data: Preparation, assignment: Assignment) -> Examiner:
        return Examiner(
            bank=self._tools.bank,
            store=self._tools.store,
            files=self._tools.files,
            device=self._device,
            assignment=assignment,
            chosen=data.chosen,
            references=self._tools.references,
            screened=self._screened or Screened(),
            folder=self._folder,
            micro_tokens=MICRO_TOKENS,
        )

    def _report(self, event: EventPayload) -> None:
        self._tools.send(Reported(lease=self.lease, event=event))
