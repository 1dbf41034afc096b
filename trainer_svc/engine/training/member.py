"""One job's place among those that step: what it does at a boundary between two steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum

from tailorbird.errors import FailedPrecondition
from trainer_svc.engine.step.run import Run, Snapshot, StepResult
from trainer_svc.engine.training.evaluation import evaluation
from trainer_svc.engine.training.forward import Bank
from trainer_svc.engine.training.group import NON_FINITE
from trainer_svc.engine.training.memory import WorkerMemory
from trainer_svc.jobs.events import Evaluation, EventPayload, JobWarning, StepProgress


class Ending(StrEnum):
    """How a run left its steps."""

    FINISHED = "finished"
    CANCELLED = "cancelled"
    SUSPENDED = "suspended"


@dataclass(frozen=True)
class Member:
    """One job that steps: its run, and who hears of it.

    All are called on the step thread and must not block; what they raise ends this job alone.
    `keep` gets a copy to write: at each checkpoint interval, when a validation loss is the best so
    far (then with True), and of the last step, unless the run is cancelled. While `busy`, no copy
    is made for an interval.
    """

    run: Run
    report: Callable[[EventPayload], None]
    keep: Callable[[Snapshot, bool], None]
    busy: Callable[[], bool]


class Place:
    """A member among those that step. Every method is called between two passes."""

    def __init__(
        self,
        member: Member,
        ended: Future[Ending],
        bank: Bank,
        memory: WorkerMemory,
        progress_interval: float,
    ) -> None:
        self.run = member.run
        self.run.restart()
        self.ended = ended
        self.asked: Ending | None = None
        """How it was asked to leave."""
        self._member = member
        self._bank = bank
        self._memory = memory
        self._progress_interval = progress_interval
        self._evaluating: Generator[None, None, float] | None = None
        step = self.run.state.step
        self._kept = step if step else None
        self._reported_at = time.monotonic()
        self._reported_tokens = self.run.state.tokens

    @property
    def evaluating(self) -> bool:
        """Whether the weights are being judged; the run takes no step meanwhile."""
        return self._evaluating is not None

    def settle(self, micro_tokens: int) -> Ending | None:
        """Begin the evaluation that is due; return how the run ends, if it ends here."""
        if self.asked is not None:
            if self.asked is Ending.SUSPENDED:
                self._keep_last()
            return self.asked
        if self._evaluating is None and self.run.evaluation_due:
            self._evaluating = evaluation(
                self._bank, self.run.job, self.run.validation, micro_tokens
            )
        if self._evaluating is not None or not self.run.paused:
            return None
        self._keep_last()
        if self.run.done:
            self.run.hold_best()
        return Ending.FINISHED

    def evaluate(self) -> None:
        """Run one piece of the evaluation that is going on.

        Raises FailedPrecondition (NON_FINITE) if the loss is not finite.
        """
        if self._evaluating is None:
            return
        try:
            next(self._evaluating)
        except StopIteration as stop:
            self._evaluating = None
            self._evaluated(stop.value)

    def gone(self) -> None:
        """Give up the evaluation that is going on."""
        self._evaluating = None
        self._memory.left(self.run.job)

    def stepped(self, result: StepResult) -> None:
        """Report the step just taken, and keep a copy where one is due."""
        self._progress(result)
        if not self.run.evaluation_due:
            self._keep_due(best=False)

    def _evaluated(self, loss: float) -> None:
        step = self.run.state.step
        if not math.isfinite(loss):
            raise FailedPrecondition(
                f"the validation loss after step {step} is {loss}", reason=NON_FINITE, step=step
            )
        recent = self.run.state.curve.recent
        overfitting = self.run.overfits(loss)
        best = self.run.evaluated(loss)
        self._member.report(
            Evaluation(
                step=step,
                validation_loss=loss,
                perplexity=math.exp(min(loss, 700.0)),
                version=self.run.from_version if step == 0 else "",
                gap=None if recent is None else loss - recent,
            )
        )
        if overfitting and recent is not None:
            self._member.report(_overfitting(self.run, loss, recent))
        self._keep_due(best=best)

    def _keep_due(self, *, best: bool) -> None:
        run, step = self.run, self.run.state.step
        if best and run.best is not None:
            self._keep(run.best, best=True)
        elif self._interval_over(step) and not self._member.busy():
            self._keep(run.snapshot(), best=False)

    def _interval_over(self, step: int) -> bool:
        return step > 0 and step % (self.run.hyperparameters.checkpoint_interval or 1) == 0

    def _keep_last(self) -> None:
        if self._kept != self.run.state.step:
            self._keep(self.run.snapshot(), best=False)

    def _keep(self, snapshot: Snapshot, *, best: bool) -> None:
        self._member.keep(snapshot, best)
        self._kept = snapshot.step

    def _progress(self, result: StepResult) -> None:
        run, state, now = self.run, self.run.state, time.monotonic()
        total = run.plan.total_steps
        passed = now - self._reported_at
        if passed < self._progress_interval and 1 < state.step < total:
            return
        speed = (state.tokens - self._reported_tokens) / max(passed, 1e-6)
        state.curve = state.curve.paced(state.step, speed)
        tokens_left = state.tokens / state.step * (total - state.step)
        self._member.report(
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
                update_to_weight_ratio=result.update_ratio,
                worker_memory_bytes=self._memory.taken(run.job, run.device),
            )
        )
        self._reported_at, self._reported_tokens = now, state.tokens


def _overfitting(run: Run, loss: float, recent: float) -> JobWarning:
    best = run.state.best_validation_loss or 0.0
    return JobWarning(
        reason="OVERFITTING",
        message=f"after step {run.state.step} the validation loss is {loss:.4g}, after step "
        f"{run.state.best_step} it was {best:.4g}; the training loss went on to {recent:.4g}: the "
        "run learns its records by heart. The version has the weights with the best validation "
        "loss; fewer epochs, a lower rate, dropout or more records would help",
    )
