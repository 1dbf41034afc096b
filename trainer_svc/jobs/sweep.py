"""A sweep: which settings are tried, where they are compared, and which go on. Pure.

Successive halving (K. Jamieson, A. Talwalkar: Non-stochastic Best Arm Identification and
Hyperparameter Optimization, arXiv:1502.07943): all trials take the first share of their steps, the
better part of them goes on to the next rung, and so on, until one is left that takes all its steps.

A rung is a share of a trial's own steps, since its learning rate follows its own schedule: trials
of one and of four epochs are compared where both are, say, halfway through theirs. What is compared
is the lowest validation loss so far, of the weights that would be published. Whoever is best at the
end was among the best at every rung, and nobody who was stopped had a lower loss when it was.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Literal

from tailorbird.errors import InvalidArgument
from trainer_svc.record import Record

MOST_TRIALS = 32
_NARROWEST = 1.01
"""Highest rate of a range over the lowest, so that no two that are drawn are the same number."""
_AT = "sweep."

HALVED = "HALVED"
"""Why a trial was stopped: others had a lower validation loss at the same rung."""


class LogRange(Record):
    """Numbers drawn evenly in their logarithm."""

    low: float
    high: float


class SearchSpace(Record):
    """The values that are tried, by the hyperparameter; () for what is not searched."""

    ranks: tuple[int, ...] = ()
    alphas: tuple[float, ...] = ()
    learning_rates: tuple[float, ...] = ()
    learning_rate_range: LogRange | None = None
    epochs: tuple[int, ...] = ()

    @property
    def axes(self) -> tuple[Sequence[float], ...]:
        """The lists of values, in a fixed order."""
        return self.ranks, self.alphas, self.learning_rates, self.epochs


class AskedSweep(Record):
    """What a caller asks for beside the specification that the trials have in common."""

    space: SearchSpace
    random_trials: int | None = None
    """Settings to draw; None: every combination."""
    seed: int = 0
    eta: int = 2


class Setting(Record):
    """What a trial has of its own; None is what the trials have in common."""

    rank: int | None = None
    alpha: float | None = None
    learning_rate: float | None = None
    epochs: int | None = None


class TrialSpec(Record):
    """A setting with its LoRA shape decided; None is "auto" or what the trials have in common."""

    rank: int
    alpha: float
    learning_rate: float | None = None
    epochs: int | None = None


class SweepSpec(Record):
    """What a sweep tries. The trials are kept as they were drawn: another draw changes none."""

    asked: AskedSweep
    trials: tuple[TrialSpec, ...]


class Rung(Record):
    """Where trials are compared: after one `divisor`-th of their steps; at most `keep` go on."""

    divisor: int
    keep: int

    def step(self, total_steps: int) -> int:
        """Return the steps that a trial of `total_steps` has taken here, at least 1."""
        return -(-total_steps // self.divisor)


def settings(asked: AskedSweep) -> list[Setting]:
    """Return the settings to try, 2 to 32, no two alike.

    Raises InvalidArgument for a space that is empty, too large or too small.
    """
    space, count = asked.space, asked.random_trials
    sizes = [max(1, len(axis)) for axis in space.axes]
    combinations = math.prod(sizes)
    if not any(space.axes) and space.learning_rate_range is None:
        raise InvalidArgument(_AT + "space", "is empty: give at least one list of values")
    if space.learning_rate_range is not None:
        if count is None:
            raise InvalidArgument(
                _AT + "space.learning_rate_range",
                "is for a random draw: give random_trials, or learning_rates",
            )
        if space.learning_rates:
            raise InvalidArgument(
                _AT + "space.learning_rate_range", "give it or learning_rates, not both"
            )
        _check_width(space.learning_rate_range)
    elif count is not None and count > combinations:
        raise InvalidArgument(
            _AT + "random_trials", f"{count} is more than the {combinations} combinations there are"
        )
    if count is None and not 2 <= combinations <= MOST_TRIALS:
        raise InvalidArgument(
            _AT + "space",
            f"{combinations} combinations; a sweep has 2 to {MOST_TRIALS} trials: with "
            "random_trials so many are drawn",
            limit=MOST_TRIALS,
        )
    return _grid(space) if count is None else _drawn(space, sizes, count, asked.seed)


def _check_width(rates: LogRange) -> None:
    least = rates.low * _NARROWEST
    if rates.high < least:
        raise InvalidArgument(
            _AT + "space.learning_rate_range.high",
            f"{rates.high:g} is less than {_NARROWEST} times the low of {rates.low:g}",
            limit=least,
        )


def _grid(space: SearchSpace) -> list[Setting]:
    return [_setting(space, at) for at in product(*(range(max(1, len(a))) for a in space.axes))]


def _drawn(space: SearchSpace, sizes: Sequence[int], count: int, seed: int) -> list[Setting]:
    """Draw combinations without giving one twice; with a range, rates make them differ."""
    draw = random.Random(seed)  # noqa: S311 - which settings are tried is no secret
    combinations = math.prod(sizes)
    if count <= combinations:
        numbers = draw.sample(range(combinations), count)
    else:
        numbers = [draw.randrange(combinations) for _ in range(count)]
    found = []
    for number in numbers:
        at = []
        for size in reversed(sizes):
            number, index = divmod(number, size)
            at.append(index)
        setting = _setting(space, at[::-1])
        if (rates := space.learning_rate_range) is not None:
            rate = math.exp(draw.uniform(math.log(rates.low), math.log(rates.high)))
            # Rounding may take it out of the range, and above 1.
            rate = min(max(rate, rates.low), rates.high)
            setting = setting.model_copy(update={"learning_rate": rate})
        found.append(setting)
    return found


def _setting(space: SearchSpace, at: Sequence[int]) -> Setting:
    """Return the setting with the value at each index of its axis; an empty axis has none."""
    rank, alpha, rate, epochs = at
    return Setting(
        rank=space.ranks[rank] if space.ranks else None,
        alpha=space.alphas[alpha] if space.alphas else None,
        learning_rate=space.learning_rates[rate] if space.learning_rates else None,
        epochs=space.epochs[epochs] if space.epochs else None,
    )


def rungs(trials: int, eta: int) -> tuple[Rung, ...]:
    """Return where so many trials are compared, down to the one that takes all its steps.

    Eight trials with eta 2: after an eighth of the steps four go on, after a quarter two, after
    half one. Together they take 2.5 times the steps of one job, not 8 times.
    """
    kept = []
    left = trials
    while left > 1:
        left = -(-left // eta)
        kept.append(left)
    halvings = [
        Rung(divisor=eta ** (len(kept) - number), keep=keep) for number, keep in enumerate(kept)
    ]
    return (*halvings, Rung(divisor=1, keep=1))


def better(losses: Mapping[int, float | None]) -> list[int]:
    """Return the trials, the lowest loss first, of equal ones the first; those without one last."""
    worst = math.inf
    return sorted(losses, key=lambda trial: (_loss(losses[trial], worst), trial))


def _loss(loss: float | None, worst: float) -> float:
    return worst if loss is None else loss


def planned_steps(results: SweepResults, totals: Sequence[int], compared: Sequence[Rung]) -> int:
    """Return the steps that all trials will have taken together at the end.

    `totals` are the steps of each trial's schedule. Who goes on is not known: the first do here.
    """
    steps = 0
    for trial in results.trials:
        if trial.stop_reason and trial.rungs:
            steps += trial.rungs[-1].step
    left = results.active
    for rung in compared[results.decided :]:
        steps += sum(rung.step(totals[trial]) for trial in left[rung.keep :])
        left = left[: rung.keep]
    return steps + sum(totals[trial] for trial in left)


class TrialReached(Record):
    """A trial has come to a rung, or failed on its way: then it has no loss, and a reason."""

    kind: Literal["trial_reached"] = "trial_reached"
    trial: int
    rung: int
    step: int
    total_steps: int
    learning_rate: float
    epochs: int
    validation_loss: float | None = None
    """The lowest so far, in nats per trained token."""
    reason: str = ""
    message: str = ""


class RungDecided(Record):
    """Which trials go on from a rung, and which do not; the better first."""

    kind: Literal["rung_decided"] = "rung_decided"
    rung: int
    going_on: tuple[int, ...]
    stopped: tuple[int, ...]


class RungResult(Record):
    """A trial at a rung; no loss if it failed on its way."""

    step: int
    validation_loss: float | None = None


class TrialResult(Record):
    """How far a trial came. `stop_reason` is "" while it was not stopped."""

    learning_rate: float | None = None
    epochs: int | None = None
    total_steps: int = 0
    rungs: tuple[RungResult, ...] = ()
    stop_reason: str = ""
    stop_message: str = ""


class SweepResults(Record):
    """What is known of a sweep: its history's events, in short."""

    trials: tuple[TrialResult, ...]
    decided: int = 0
    """Rungs that are decided."""

    @classmethod
    def begun(cls, spec: SweepSpec) -> SweepResults:
        """Return what is known of a sweep before its first rung."""
        return cls(trials=(TrialResult(),) * len(spec.trials))

    @property
    def active(self) -> list[int]:
        """The trials that have not been stopped."""
        return [index for index, trial in enumerate(self.trials) if not trial.stop_reason]

    def best(self, rungs: int) -> int | None:
        """Return the trial that is published, once all of so many rungs are decided."""
        active = self.active
        return active[0] if self.decided >= rungs and len(active) == 1 else None

    def at_rung(self) -> dict[int, float | None]:
        """Return the losses of those who have come to the rung that is to be decided next."""
        found = {}
        for index, trial in enumerate(self.trials):
            if len(trial.rungs) > self.decided:
                found[index] = trial.rungs[self.decided].validation_loss
        return found

    def decide(self, keep: int) -> RungDecided:
        """Decide the next rung: the `keep` lowest losses go on, and nobody who failed."""
        losses = self.at_rung()
        order = better(losses)
        going_on = [trial for trial in order if losses[trial] is not None][:keep]
        stopped = [trial for trial in order if trial not in going_on]
        return RungDecided(rung=self.decided, going_on=tuple(going_on), stopped=tuple(stopped))

    def after(self, event: TrialReached | RungDecided) -> SweepResults:
        """Return what is known after one more event; one that came before changes nothing."""
        if isinstance(event, TrialReached):
            return self._reached(event)
        if event.rung != self.decided:
            return self
        trials = tuple(
            _halved(trial, event.rung) if index in event.stopped else trial
            for index, trial in enumerate(self.trials)
        )
        return self.model_copy(update={"trials": trials, "decided": self.decided + 1})

    def _reached(self, event: TrialReached) -> SweepResults:
        before = self.trials[event.trial]
        if event.rung != len(before.rungs) or before.stop_reason:
            return self
        result = RungResult(step=event.step, validation_loss=event.validation_loss)
        changed = before.model_copy(
            update={
                "learning_rate": event.learning_rate,
                "epochs": event.epochs,
                "total_steps": event.total_steps,
                "rungs": (*before.rungs, result),
                "stop_reason": event.reason,
                "stop_message": event.message,
            }
        )
        trials = (*self.trials[: event.trial], changed, *self.trials[event.trial + 1 :])
        return self.model_copy(update={"trials": trials})


def _halved(trial: TrialResult, rung: int) -> TrialResult:
    if trial.stop_reason:
        return trial
    message = f"others had a lower validation loss at rung {rung + 1}"
    return trial.model_copy(update={"stop_reason": HALVED, "stop_message": message})
