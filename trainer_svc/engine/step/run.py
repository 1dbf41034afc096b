"""One job's run: its adapter, optimizer, schedule, place in the data, and running figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict

from trainer_svc.engine.data.hyperparameters import learning_rate_at
from trainer_svc.engine.data.packing import StepPlan
from trainer_svc.engine.data.tokens import Example
from trainer_svc.engine.step.bank import Adapter, Dropout, Share, StepLoss
from trainer_svc.engine.step.curve import Curve
from trainer_svc.engine.step.optimizer import Optimizer
from trainer_svc.jobs.model import Hyperparameters


class RunState(BaseModel):
    """The figures a checkpoint must bring back; losses in nats per trained token."""

    model_config = ConfigDict(extra="ignore")

    step: int = 0
    tokens: int = 0
    training_loss: float | None = None
    validation_loss: float | None = None
    base_validation_loss: float | None = None
    best_validation_loss: float | None = None
    """Of the evaluations after a step was taken."""
    best_step: int | None = None
    evaluated_step: int | None = None
    evaluations_since_best: int = 0
    curve: Curve = Curve()


@dataclass(frozen=True)
class Snapshot:
    """A run between two steps, copied to the CPU: weights and moments in fp32, and its figures."""

    step: int
    adapter: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    state: RunState


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did."""

    loss: float
    """Mean over the step's trained tokens, in nats."""
    learning_rate: float
    gradient_norm: float
    """Before clipping."""
    update_ratio: float
    """See Optimizer.step."""


class _Accumulated:
    """The step that is under way: its records, and what of it has been through a forward pass."""

    def __init__(self, records: list[int], lengths: list[int], examples: list[Example]) -> None:
        self.records = records
        self.lengths = lengths
        self.examples = examples
        self.trained_tokens = max(sum(int(example.trained.sum()) for example in examples), 1)
        self.taken = 0
        self.tokens = 0
        self.loss: torch.Tensor | None = None


class Run:
    """Takes the steps of one job; knows nothing of how the loss was computed.

    A step goes through one forward pass after another: `take` its next records, `add` their loss
    and go backward; when nothing is `waiting`, `update`, then `stepped`.
    """

    def __init__(
        self,
        job: str,
        adapter: Adapter,
        hyperparameters: Hyperparameters,
        plan: StepPlan,
        training: Sequence[Example],
        validation: Sequence[Example],
        *,
        from_version: str = "",
    ) -> None:
        self.job = job
        self.adapter = adapter
        self.hyperparameters = hyperparameters
        self.plan = plan
        self.training = training
        self.validation = validation
        self.from_version = from_version
        """The version whose weights step 0 has, once it has `begun_with` them; else the base."""
        self.state = RunState()
        self.until: int | None = None
        """The step at which the run is judged and leaves its steps, to go on later; None: none."""
        self.best: Snapshot | None = None
        """The snapshot with the lowest validation loss, where there is validation data."""
        self._optimizer = Optimizer(
            adapter.parameters, weight_decay=_value(hyperparameters.weight_decay)
        )
        self._under_way: _Accumulated | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are, and so what is accumulated."""
        return next(iter(self.adapter.parameters.values())).device

    @property
    def done(self) -> bool:
        """Whether every step is taken, or validation got no better for as long as was asked."""
        patience = self.hyperparameters.early_stopping_patience or 0
        if patience and self.state.evaluations_since_best >= patience:
            return True
        return self.state.step >= self.plan.total_steps

    @property
    def paused(self) -> bool:
        """Whether the run leaves its steps here, be it done or not."""
        return self.done or (self.until is not None and self.state.step >= self.until)

    @property
    def evaluation_due(self) -> bool:
        """Whether the weights as they are now must be judged before the next step."""
        step = self.state.step
        if not self.validation or self.state.evaluated_step == step:
            return False
        return self.paused or step % (self.hyperparameters.evaluation_interval or 1) == 0

    @property
    def learning_rate(self) -> float:
        """The rate of the step under way."""
        return learning_rate_at(
            self.state.step + 1,
            self.plan.total_steps,
            _value(self.hyperparameters.learning_rate),
            _value(self.hyperparameters.warmup_ratio),
        )

    @property
    def waiting(self) -> Sequence[int]:
        """Lengths, in tokens, of the step's records that no forward pass has had, in order.

        Raises whatever reading the records does, when a step begins.
        """
        step = self._step()
        return step.lengths[step.taken :]

    def take(self, count: int) -> Share:
        """Return the next `count` of the records that wait."""
        step = self._step()
        part = slice(step.taken, step.taken + count)
        step.taken += count
        seed = int(_value(self.hyperparameters.seed))
        dropout = Dropout(seed=seed, step=self.state.step, records=step.records[part])
        return Share(step.examples[part], dropout)

    def add(self, loss: StepLoss) -> torch.Tensor:
        """Return what these records add to the step's mean loss, to go backward from."""
        step = self._step()
        part = loss.total / step.trained_tokens
        step.tokens += loss.tokens
        step.loss = part.detach() if step.loss is None else step.loss + part.detach()
        return part

    def figures(self) -> torch.Tensor:
        """Return the loss and the gradient's norm, as accumulated so far: [2] fp32, on the device.

        Raises ValueError if nothing of the step has been through a forward pass.
        """
        loss = self._step().loss
        if loss is None:
            raise ValueError(f"{self.job} has added no loss to its step")
        return torch.stack([loss, self._optimizer.norm()])

    def update(self, norm: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Take the optimizer step, on the device, unless `skip` [] is 1.0.

        Returns the largest magnitude among the weights after it, and the step's update-to-weight
        ratio: [2] fp32, on the device.
        """
        ratio = self._optimizer.step(self.learning_rate, norm, skip)
        return torch.stack([self._optimizer.largest_weight(), ratio])

    def stepped(self, loss: float, norm: float, update_ratio: float) -> StepResult:
        """Count the step that `update` took."""
        result = StepResult(loss, self.learning_rate, norm, update_ratio)
        self.state.tokens += self._step().tokens
        self.state.training_loss = loss
        self.restart()
        self.state.step += 1
        self.state.curve = self.state.curve.stepped(self.state.step, loss, result.learning_rate)
        return result

    def restart(self) -> None:
        """Forget what is accumulated: the step under way begins again with its first record."""
        self._optimizer.clear()
        self._under_way = None

    def overfits(self, validation_loss: float) -> bool:
        """Tell, once a run, whether this loss says that its records are learned by heart."""
        if not self.state.curve.opens(validation_loss):
            return False
        self.state.curve = self.state.curve.model_copy(update={"told": True})
        return True

    def evaluated(self, validation_loss: float) -> bool:
        """Keep a validation loss of the weights as they are; True if they are the best so far."""
        state = self.state
        state.validation_loss = validation_loss
        state.evaluated_step = state.step
        state.curve = state.curve.evaluated(state.step, validation_loss)
        if state.step == 0:
            if not self.from_version:
                state.base_validation_loss = validation_loss
            return False
        best = state.best_validation_loss
        if best is not None and validation_loss >= best:
            state.evaluations_since_best += 1
            return False
        state.best_validation_loss = validation_loss
        state.best_step = state.step
        state.evaluations_since_best = 0
        self.best = self.snapshot()
        return True

    def snapshot(self) -> Snapshot:
        """Copy what the next step depends on; what is accumulated of a step is left out."""
        weights, moments = self._optimizer.copy()
        return Snapshot(self.state.step, weights, moments, self.state.model_copy())

    def begin_with(
        self, weights: Mapping[str, torch.Tensor], base_validation_loss: float | None
    ) -> None:
        """Let the first step start from these weights; the base's loss is told beside them.

        DataCorrupt, and no change, if they are not of such an adapter.
        """
        self._optimizer.check(weights)
        self._optimizer.put(weights)
        self.state.base_validation_loss = base_validation_loss

    def restore(self, latest: Snapshot, best: Snapshot | None) -> None:
        """Go on from `latest`; DataCorrupt, and no change, if it is not of such an adapter.

        A best loss whose snapshot is lost is forgotten.
        """
        state = latest.state.model_copy()
        if state.best_step == latest.step:
            best = latest
        if best is None or best.step != state.best_step:
            state.best_validation_loss = state.best_step = best = None
            state.evaluations_since_best = 0
        else:
            self._optimizer.check(best.adapter)
        self._optimizer.load(latest.adapter, latest.optimizer)
        self.restart()
        self.state, self.best = state, best

    def hold_best(self) -> None:
        """Let the adapter be the best one, where there is one; training is over after that."""
        if self.best is not None:
            self._optimizer.put(self.best.adapter)
            self.state.validation_loss = self.state.best_validation_loss

    def _step(self) -> _Accumulated:
        if self._under_way is None:
            records = self.plan.records(self.state.step)
            lengths: list[int] = self.plan.lengths[records].tolist()
            examples = [self.training[record] for record in records]
            self._under_way = _Accumulated(records, lengths, examples)
        return self._under_way


def _value(chosen: float | None) -> float:
    if chosen is None:
        raise ValueError("a run needs resolved hyperparameters")
    return chosen
