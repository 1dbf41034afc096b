"""The step loop: jobs join before it, step together, and leave at step boundaries."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from tailorbird.errors import FailedPrecondition, StoreUnavailable
from trainer_svc.engine.result.checkpoint import Checkpoints
from trainer_svc.engine.result.evaluate import validation_loss
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.engine.step.run import Run, StepResult
from trainer_svc.jobs.model import (
    CheckpointSaved,
    Evaluation,
    EventPayload,
    JobWarning,
    StepProgress,
)

CHECKPOINT_FAILED = "CHECKPOINT_FAILED"
NON_FINITE_STEP = "NON_FINITE_STEP"


class Ending(StrEnum):
    """How a run left the loop."""

    FINISHED = "finished"
    CANCELLED = "cancelled"
    SUSPENDED = "suspended"


@dataclass
class _Pace:
    """When progress was last reported, and the tokens read by then."""

    time: float
    tokens: int


@dataclass
class Member:
    """One job in the loop: its run, where it is kept, and who hears of it."""

    run: Run
    checkpoints: Checkpoints
    report: Callable[[EventPayload], None]
    pace: _Pace | None = field(default=None, init=False)
    unsaved: bool = field(default=True, init=False)


class StepLoop:
    """Packs each active run's next records, runs the bank once, and steps every run.

    `interruption(job)` is asked at each step boundary whether the job shall leave, and how.
    """

    def __init__(
        self,
        bank: AdapterBank,
        interruption: Callable[[str], Ending | None],
        progress_interval: float,
    ) -> None:
        self._bank = bank
        self._interruption = interruption
        self._progress_interval = progress_interval

    def train(self, members: Sequence[Member]) -> dict[str, Ending]:
        """Step until every run is done or interrupted; return how each ended.

        A finished or suspended run has a checkpoint of its last step, if the store answers.
        """
        active = {member.run.job: member for member in members}
        endings: dict[str, Ending] = {}
        for member in active.values():
            self._begin(member)
        while True:
            for job, member in list(active.items()):
                ending = self._ending(member)
                if ending is not None:
                    endings[job] = ending
                    del active[job]
            if not active:
                return endings
            self._step(active.values())

    def _begin(self, member: Member) -> None:
        run = member.run
        member.unsaved = run.state.step == 0
        if run.state.step == 0:
            evaluate(self._bank, run, member.report)
        member.pace = _Pace(time.monotonic(), run.state.tokens)

    def _ending(self, member: Member) -> Ending | None:
        ending = self._interruption(member.run.job)
        if ending is None and member.run.done:
            ending = Ending.FINISHED
        if ending in {Ending.FINISHED, Ending.SUSPENDED} and member.unsaved:
            _save(member)
        return ending

    def _step(self, members: Collection[Member]) -> None:
        runs = [member.run for member in members]
        losses = self._bank.forward(
            {run.job: run.next_batch() for run in runs},
            dropout_seeds={run.job: run.dropout_seed for run in runs},
        )
        for member in members:
            self._stepped(member, member.run.apply(losses[member.run.job]))

    def _stepped(self, member: Member, result: StepResult) -> None:
        run, step = member.run, member.run.state.step
        member.unsaved = True
        if result.skipped:
            member.report(
                JobWarning(
                    reason=NON_FINITE_STEP,
                    message=f"step {step} was skipped: loss {result.loss}, "
                    f"gradient norm {result.gradient_norm}",
                )
            )
        else:
            self._progress(member, result)
        if not run.done:
            if step % (run.hyperparameters.evaluation_interval or 1) == 0:
                evaluate(self._bank, run, member.report)
            if step % (run.hyperparameters.checkpoint_interval or 1) == 0:
                _save(member)

    def _progress(self, member: Member, result: StepResult) -> None:
        run, state, now = member.run, member.run.state, time.monotonic()
        pace = member.pace or _Pace(now, state.tokens)
        total = run.plan.total_steps
        passed = now - pace.time
        if passed < self._progress_interval and 1 < state.step < total:
            return
        speed = (state.tokens - pace.tokens) / max(passed, 1e-6)
        tokens_left = state.tokens / state.step * (total - state.step)
        member.report(
            StepProgress(
                step=state.step,
                total_steps=total,
                epoch=run.plan.epochs_passed(state.step),
                loss=result.loss,
                learning_rate=result.learning_rate,
                gradient_norm=result.gradient_norm,
                tokens=state.tokens,
                tokens_per_second=speed,
                eta_seconds=tokens_left / speed if speed > 0 else 0.0,
            )
        )
        member.pace = _Pace(now, state.tokens)


def evaluate(bank: AdapterBank, run: Run, report: Callable[[EventPayload], None]) -> None:
    """Compute and report the run's validation loss; nothing happens without validation data.

    Raises FailedPrecondition (NON_FINITE) if it is not finite.
    """
    if not run.validation:
        return
    loss = validation_loss(bank, run.job, run.validation, run.hyperparameters.batch_tokens or 1)
    if not math.isfinite(loss):
        raise FailedPrecondition(
            f"the validation loss after step {run.state.step} is {loss}",
            reason="NON_FINITE",
            step=run.state.step,
        )
    run.evaluated(loss)
    report(
        Evaluation(step=run.state.step, validation_loss=loss, perplexity=math.exp(min(loss, 700.0)))
    )


def _save(member: Member) -> None:
    step = member.run.state.step
    try:
        member.checkpoints.save(member.run)
    except StoreUnavailable as error:
        member.report(
            JobWarning(
                reason=CHECKPOINT_FAILED,
                message=f"the checkpoint of step {step} could not be written: {error.message}",
            )
        )
        return
    member.unsaved = False
    member.report(CheckpointSaved(step=step))
