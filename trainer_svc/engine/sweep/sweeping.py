"""A sweep's way through its rungs: its trials train together, and the better ones go on.

The job store is told of every trial that has come to a rung and of every decision, in this order;
each trial has its checkpoints. Whoever takes the sweep after a lost worker begins with both: a
trial that is known to have come to the rung is not trained again, one that was on its way goes on
from its checkpoint, and no decision is told twice. Nobody waits for the job store: what it was not
told when the worker was lost is found again, from checkpoints that may be further on.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from tailorbird.errors import FailedPrecondition, StoreUnavailable
from trainer_svc.engine.course import Course, Device, Lessee, Tools, TrainedRun
from trainer_svc.engine.preparation import Preparation
from trainer_svc.engine.step.run import Run
from trainer_svc.engine.sweep.progress import SweepProgress
from trainer_svc.engine.training.group import NON_FINITE
from trainer_svc.jobs.events import (
    CheckpointSaved,
    Evaluation,
    EventPayload,
    JobWarning,
    Prepared,
    Resumed,
    StepProgress,
)
from trainer_svc.jobs.held_out import TRIALS_COMPARED, no_validation
from trainer_svc.jobs.sweep import Rung, RungDecided, TrialReached, planned_steps, rungs
from trainer_svc.protocol import Assignment, SweepAssignment

NO_TRIAL_LEFT = "NO_TRIAL_LEFT"
_MOST_SAID = 500
"""Characters of why."""


class Sweeping:
    """Trains the trials of one sweep, `at_once` at a time, down to the best."""

    def __init__(
        self, assignment: Assignment, sweep: SweepAssignment, tools: Tools, lessee: Lessee
    ) -> None:
        self._assignment = assignment
        self._spec = sweep.spec
        self._results = sweep.results
        self._at_once = sweep.at_once
        self._rungs = rungs(len(sweep.spec.trials), sweep.spec.asked.eta)
        self._tools = tools
        self._lessee = lessee
        self._device = Device(tools.steps)
        self._trials = [self._of_trial(index) for index in range(len(sweep.spec.trials))]
        self._courses = [self._course(index) for index in range(len(self._trials))]
        self._totals: list[int] = []
        """The steps of each trial's schedule."""
        self._progress = SweepProgress({}, 0, tools.settings.progress_interval)

    async def trained(self, folder: Path) -> TrainedRun:
        """Take the sweep to its end; the best trial is attached under the job's name.

        Raises FailedPrecondition: NO_VALIDATION_DATA if there is nothing to compare trials on,
        NO_TRIAL_LEFT if the loss of every trial is no number; and what training a job does.
        """
        self._check_left()
        await self._courses[self._results.active[0]].check_version()
        data = await self._prepare(folder)
        while self._results.decided < len(self._rungs):
            rung = self._rungs[self._results.decided]
            await self._to_rung(rung, data)
            await self._decide(rung)
        (best,) = self._results.active
        course = self._courses[best]
        run = course.run or await self._attached(best, data)
        await course.begin()
        await course.train()
        await course.rename(self._assignment.lease.job)
        return TrainedRun(run, self._varied(best, data), self._trials[best])

    async def written(self) -> None:
        """Wait until every checkpoint taken so far is written, or could not be."""
        await asyncio.gather(*(course.written() for course in self._courses))

    async def stop(self) -> None:
        """Write no more checkpoints."""
        await asyncio.gather(*(course.stop() for course in self._courses))

    async def detach(self) -> None:
        """Take every adapter off the base, all of them between the same two passes."""
        await asyncio.gather(*(course.detach() for course in self._courses))

    def _of_trial(self, index: int) -> Assignment:
        trial, common = self._spec.trials[index], self._assignment
        lora = common.lora.model_copy(update={"rank": trial.rank, "alpha": trial.alpha})
        own = trial.model_dump(include={"learning_rate", "epochs"}, exclude_none=True)
        hyperparameters = common.hyperparameters.model_copy(update=own)
        return common.model_copy(update={"lora": lora, "hyperparameters": hyperparameters})

    def _course(self, index: int) -> Course:
        lessee = replace(self._lessee, report=partial(self._told, index))
        name = f"{self._assignment.lease.job}/trials/{index}"
        return Course(name, self._trials[index], self._tools, lessee, trial=index)

    def _told(self, index: int, event: EventPayload) -> None:
        """Pass on what the sweep's history has of a trial: no evaluation but those at rungs."""
        match event:
            case StepProgress():
                if (told := self._progress.after(index, event)) is not None:
                    self._lessee.report(told)
            case JobWarning(reason=reason, message=message):
                self._lessee.report(JobWarning(reason=reason, message=f"trial {index}: {message}"))
            case CheckpointSaved() | Evaluation():
                pass
            case _:
                self._lessee.report(event)

    async def _prepare(self, folder: Path) -> Preparation:
        """Read the data, the same for all trials, and report what is chosen."""
        preparer, lease = self._tools.preparer, self._assignment.lease
        data = await preparer.prepare(self._assignment, folder)
        if not data.validation:
            raise no_validation(TRIALS_COMPARED, data.training_report.kept)
        await self._lessee.check(data)
        # Of each only the number is kept: a plan may be as long as the data.
        for trial in range(len(self._trials)):
            self._totals.append(self._varied(trial, data).choice.plan.total_steps)
        steps = {
            index: trial.rungs[-1].step
            for index, trial in enumerate(self._results.trials)
            if trial.rungs
        }
        self._progress = SweepProgress(
            steps, self._planned(), self._tools.settings.progress_interval
        )
        shapes = await self._device.on_step_thread(
            lambda: [self._tools.bank.shapes(trial.lora) for trial in self._trials]
        )
        largest = max(sum(rows * columns for rows, columns in each.values()) for each in shapes)
        for event in data.told(largest):
            self._lessee.report(self._without_own(event))
        if lease.epoch > 1:
            resumed_from = sum(steps.values())
            self._lessee.report(Resumed(resumed_from_step=resumed_from, lease_epoch=lease.epoch))
        return data

    def _varied(self, trial: int, data: Preparation) -> Preparation:
        """Return the data with the trial's own choices."""
        own = self._trials[trial]
        return self._tools.preparer.varied(data, own.lora, own.hyperparameters)

    def _planned(self) -> int:
        return planned_steps(self._results, self._totals, self._rungs)

    def _without_own(self, event: EventPayload) -> EventPayload:
        """Leave out of what is told of the sweep what each of its trials has of its own."""
        if not isinstance(event, Prepared):
            return event
        own = {
            field: None
            for field in ("learning_rate", "epochs")
            if any(getattr(trial, field) is not None for trial in self._spec.trials)
        }
        reasons = {name: why for name, why in event.reasons.items() if name not in own}
        chosen = event.hyperparameters.model_copy(update=own)
        return event.model_copy(
            update={
                "hyperparameters": chosen,
                "reasons": reasons,
                "total_steps": self._progress.total,
            }
        )

    async def _to_rung(self, rung: Rung, data: Preparation) -> None:
        """Take every trial to the rung that has not come there; any one's error ends them all."""
        there = self._results.at_rung()
        waiting = [trial for trial in self._results.active if trial not in there]
        crowded = len(self._results.active) > self._at_once
        slots = asyncio.Semaphore(self._at_once)

        async def reach(trial: int) -> None:
            async with slots:
                await self._reach(trial, rung, data)
                if crowded:
                    await self._courses[trial].detach()

        try:
            async with asyncio.TaskGroup() as group:
                for trial in waiting:
                    group.create_task(reach(trial))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _reach(self, trial: int, rung: Rung, data: Preparation) -> None:
        """Take a trial to the rung; what it came to is told once its checkpoint is written."""
        course = self._courses[trial]
        run = course.run or await self._attached(trial, data)
        loss: float | None = None
        reason = message = ""
        try:
            await course.begin()
            await course.train(rung.step(run.plan.total_steps))
        except FailedPrecondition as error:
            if error.reason != NON_FINITE:
                raise
            reason, message = error.reason, error.message
        else:
            loss = run.state.best_validation_loss
            if loss is None:
                # The checkpoint with the best weights is lost; these are judged as well.
                loss = run.state.validation_loss
            await course.written()
        self._tell(
            TrialReached(
                trial=trial,
                rung=self._results.decided,
                step=run.state.step,
                total_steps=run.plan.total_steps,
                learning_rate=run.hyperparameters.learning_rate or 0.0,
                epochs=run.hyperparameters.epochs or 0,
                validation_loss=loss,
                reason=reason,
                message=message,
            )
        )

    async def _attached(self, trial: int, data: Preparation) -> Run:
        """Attach a trial, at its newest checkpoint or at its first weights."""
        course = self._courses[trial]
        await course.attach(self._varied(trial, data))
        run = course.run
        if run is None:
            raise ValueError(f"trial {trial} is not attached")
        state = run.state
        await self._device.on_step_thread(
            lambda: self._progress.begins(trial, state.step, state.tokens)
        )
        return run

    async def _decide(self, rung: Rung) -> None:
        decided = self._results.decide(rung.keep)
        self._tell(decided)
        await asyncio.gather(*(self._forget(trial) for trial in decided.stopped))
        self._check_left()
        self._progress.total = self._planned()

    async def _forget(self, trial: int) -> None:
        # What is left of one that was stopped is deleted with the job's checkpoints at the end.
        with suppress(StoreUnavailable):
            await self._courses[trial].forget()

    def _check_left(self) -> None:
        trials = self._results.trials
        if not self._results.active:
            why = "; ".join(sorted({each.stop_message for each in trials if each.stop_message}))
            raise FailedPrecondition(f"no trial is left: {why[:_MOST_SAID]}", reason=NO_TRIAL_LEFT)

    def _tell(self, event: TrialReached | RungDecided) -> None:
        self._results = self._results.after(event)
        self._lessee.report(event)
