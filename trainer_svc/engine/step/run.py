"""One job's run: its adapter, optimizer, schedule, place in the data, and running figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from tailorbird.errors import FailedPrecondition
from trainer_svc.engine.data.hyperparameters import learning_rate_at
from trainer_svc.engine.data.packing import StepPlan
from trainer_svc.engine.data.tokens import Example
from trainer_svc.engine.step.bank import Adapter, StepLoss
from trainer_svc.jobs.model import Hyperparameters

_CLIP_NORM = 1.0
_BETAS = (0.9, 0.99)
_NON_FINITE_IN_A_ROW = 5


class RunState(BaseModel):
    """The figures a checkpoint must bring back; losses in nats per trained token."""

    model_config = ConfigDict(extra="ignore")

    step: int = 0
    tokens: int = 0
    non_finite_in_a_row: int = 0
    training_loss: float | None = None
    validation_loss: float | None = None
    best_validation_loss: float | None = None
    base_validation_loss: float | None = None


@dataclass(frozen=True)
class StepResult:
    """What one step did. `skipped`: its loss or gradient was not finite and nothing changed."""

    loss: float
    learning_rate: float
    gradient_norm: float
    skipped: bool


class Run:
    """Takes the steps of one job; knows nothing of how the loss was computed."""

    def __init__(
        self,
        job: str,
        adapter: Adapter,
        hyperparameters: Hyperparameters,
        plan: StepPlan,
        training: Sequence[Example],
        validation: Sequence[Example],
    ) -> None:
        self.job = job
        self.adapter = adapter
        self.hyperparameters = hyperparameters
        self.plan = plan
        self.training = training
        self.validation = validation
        self.state = RunState()
        self._parameters = list(adapter.parameters.values())
        self.optimizer = torch.optim.AdamW(
            self._parameters,
            lr=_value(hyperparameters.learning_rate),
            betas=_BETAS,
            weight_decay=_value(hyperparameters.weight_decay),
            foreach=True,
        )

    @property
    def done(self) -> bool:
        """Whether every step is taken."""
        return self.state.step >= self.plan.total_steps

    @property
    def dropout_seed(self) -> int:
        """Seed of the next step's dropout: of the job's seed and the step alone."""
        return (int(_value(self.hyperparameters.seed)) << 32) + self.state.step

    def next_batch(self) -> list[Example]:
        """Return the records of the next step."""
        return [self.training[record] for record in self.plan.records(self.state.step)]

    def apply(self, loss: StepLoss) -> StepResult:
        """Take one optimizer step on the mean loss of its trained tokens.

        A step that is not finite changes no weight. Raises FailedPrecondition (NON_FINITE) for the
        sixth of them in a row, or a weight that is not finite.
        """
        state = self.state
        rate = learning_rate_at(
            state.step + 1,
            self.plan.total_steps,
            _value(self.hyperparameters.learning_rate),
            _value(self.hyperparameters.warmup_ratio),
        )
        mean = loss.total / loss.trained_tokens
        mean.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = get_total_norm(gradients)
        value, norm_value = float(mean.detach()), float(norm)
        finite = math.isfinite(value) and math.isfinite(norm_value)
        if finite:
            clip_grads_with_norm_(self._parameters, _CLIP_NORM, norm)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.tokens += loss.tokens
        self._check(finite)
        if finite:
            state.training_loss = value
        return StepResult(value, rate, norm_value, skipped=not finite)

    def evaluated(self, validation_loss: float) -> None:
        """Keep a validation loss computed after the steps taken so far."""
        state = self.state
        state.validation_loss = validation_loss
        if state.step == 0:
            state.base_validation_loss = validation_loss
        best = state.best_validation_loss
        state.best_validation_loss = validation_loss if best is None else min(best, validation_loss)

    @torch.no_grad()
    def _check(self, finite: bool) -> None:
        self.state.non_finite_in_a_row = 0 if finite else self.state.non_finite_in_a_row + 1
        if self.state.non_finite_in_a_row > _NON_FINITE_IN_A_ROW:
            raise FailedPrecondition(
                f"{self.state.non_finite_in_a_row} steps in a row had a loss or gradient that is "
                "not finite; try a lower learning rate",
                reason="NON_FINITE",
                step=self.state.step,
            )
        if finite and not math.isfinite(float(get_total_norm(self._parameters))):
            raise FailedPrecondition(
                "a weight is not finite after the step; try a lower learning rate",
                reason="NON_FINITE",
                step=self.state.step,
            )


def _value(chosen: float | None) -> float:
    if chosen is None:
        raise ValueError("a run needs resolved hyperparameters")
    return chosen
