"""What "auto" means, as job.proto's comments promise it. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from trainer_svc.engine.data.packing import StepPlan
from trainer_svc.jobs.events import JobWarning
from trainer_svc.jobs.learning_rate import auto_learning_rate, lora_scaling
from trainer_svc.jobs.model import Hyperparameters, LoraSpec

FEW_RECORDS = "FEW_RECORDS"
_FEW = 50
_FEW_EPOCHS = 6
_FEW_A_STEP = 4
"""Records in a step where there are few: with larger steps six passes would be too few steps."""
_AIM_STEPS = 200
_MAX_AUTO_EPOCHS = 20
_STEPS_PER_EPOCH = 48
"""Small steps: at equal tokens, LoRA on a few hundred records learns faster from them."""
_LEAST_BATCH_TOKENS, _MOST_BATCH_TOKENS = 512, 8192
_LEAST_TOKENS = 64
"""The least that job.proto allows for batch_tokens."""
_LENGTH_STEP = 64
_WARMUP_RATIO = 0.05
_MARKS = 10
"""Evaluations in a run, and checkpoints at most."""
_CHECKPOINT_TOKENS = 8192
"""Between two checkpoints, at least: one at each step slowed eight jobs of 11 steps by 15%."""


@dataclass(frozen=True)
class Choice:
    """How a run is trained: no value is None, and `reasons` has a sentence for each chosen here."""

    hyperparameters: Hyperparameters
    reasons: dict[str, str]
    warnings: tuple[JobWarning, ...]
    plan: StepPlan


def sequence_limit(asked: int | None, context: int) -> int:
    """Return the longest record, in tokens, that is kept."""
    return context if asked is None else min(asked, context)


def resolve(
    asked: Hyperparameters,
    lengths: Sequence[int] | npt.NDArray[np.integer[Any]],
    *,
    lora: LoraSpec,
    hidden_size: int,
    context: int,
) -> Choice:
    """Make every choice the caller left open.

    `lengths` are the kept training records' token counts, `context` the base's longest sequence.
    Fewer than 50 records get a guarded recipe, since an adapter learns them by heart: half the
    rate, steps of about four records, at most six epochs, and a warning.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    count, total, longest = len(sizes), int(sizes.sum()), int(sizes.max())
    few = count < _FEW
    choices = _Choices(asked)
    choose = choices.choose
    seed = choose("seed", 0, "0 is the default; any other gives another draw")
    batch_tokens = choose("batch_tokens", *_batch_tokens(total, count))
    lengths = cast("Sequence[int]", lengths)
    one = StepPlan(lengths, batch_tokens=batch_tokens, seed=seed, epochs=1).total_steps
    epochs = choose("epochs", *_epochs(one, count))
    plan = StepPlan(lengths, batch_tokens=batch_tokens, seed=seed, epochs=epochs)
    steps = plan.total_steps
    tenth = max(1, round(steps / _MARKS))
    choose("learning_rate", *_learning_rate(hidden_size, lora, count))
    choose(
        "max_sequence_length",
        min(math.ceil(longest / _LENGTH_STEP) * _LENGTH_STEP, context),
        f"the longest record has {longest} tokens; the base takes {context}",
    )
    choose(
        "warmup_ratio",
        _WARMUP_RATIO,
        f"the rate rises for {round(steps * _WARMUP_RATIO)} of {steps} steps",
    )
    choose("weight_decay", 0.0, f"rank {lora.rank} already bounds what the adapter can become")
    choose("evaluation_interval", tenth, f"a tenth of {steps} steps")
    choose("checkpoint_interval", *_checkpoint_interval(steps, tenth, batch_tokens))
    choose("early_stopping_patience", 0, f"all {steps} steps are taken; the best weights are kept")
    chosen = Hyperparameters(**choices.values)
    limit = sequence_limit(chosen.max_sequence_length, context)
    return Choice(
        chosen.model_copy(update={"max_sequence_length": limit}),
        choices.reasons,
        (_few_records(count, choices.reasons),) if few else (),
        plan,
    )


def _checkpoint_interval(steps: int, tenth: int, batch_tokens: int) -> tuple[int, str]:
    fewest = min(steps, math.ceil(_CHECKPOINT_TOKENS / batch_tokens))
    if tenth >= fewest:
        return tenth, f"a tenth of {steps} steps"
    return fewest, f"{_CHECKPOINT_TOKENS:,} tokens: writing more often costs more than it saves"


def learning_rate_at(step: int, total_steps: int, peak: float, warmup_ratio: float) -> float:
    """Return the rate of step `step`, counted from 1: a linear rise, then a cosine to a tenth."""
    warmup = round(total_steps * warmup_ratio)
    if step <= warmup:
        return peak * step / warmup
    passed = (step - warmup) / max(1, total_steps - warmup)
    floor = peak / 10
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * passed))


class _Choices:
    """What was asked for, completed value by value."""

    def __init__(self, asked: Hyperparameters) -> None:
        self.values: dict[str, Any] = {
            name: getattr(asked, name) for name in type(asked).model_fields
        }
        self.reasons: dict[str, str] = {}

    def choose(self, name: str, value: float, reason: str) -> Any:
        """Return what was asked for as `name`; if it was left open, it becomes `value`."""
        if self.values[name] is None:
            self.values[name] = value
            self.reasons[name] = reason
        return self.values[name]


def _batch_tokens(total: int, count: int) -> tuple[int, str]:
    if count < _FEW:
        size = max(math.ceil(total * _FEW_A_STEP / count), _LEAST_TOKENS)
        return size, f"about {_FEW_A_STEP} of {count} records of {total} tokens"
    size = min(max(round(total / _STEPS_PER_EPOCH), _LEAST_BATCH_TOKENS), _MOST_BATCH_TOKENS)
    return size, (
        f"a {_STEPS_PER_EPOCH}th of {total} tokens, "
        f"within {_LEAST_BATCH_TOKENS} and {_MOST_BATCH_TOKENS}"
    )


def _epochs(steps_an_epoch: int, count: int) -> tuple[int, str]:
    most = _MAX_AUTO_EPOCHS if count >= _FEW else _FEW_EPOCHS
    epochs = min(math.ceil(_AIM_STEPS / steps_an_epoch), most)
    return epochs, (
        f"{steps_an_epoch} steps an epoch; {_AIM_STEPS} steps are aimed at, "
        f"in at most {most} epochs for {count} records"
    )


def _learning_rate(hidden_size: int, lora: LoraSpec, count: int) -> tuple[float, str]:
    rate = auto_learning_rate(hidden_size, lora)
    fits = f"it fits a hidden size of {hidden_size} and a LoRA scaling of {lora_scaling(lora):.3g}"
    if count < _FEW:
        return rate / 2, f"{fits}, halved for only {count} records"
    return rate, fits


def _few_records(count: int, reasons: dict[str, str]) -> JobWarning:
    guarded = [name for name in ("learning_rate", "batch_tokens", "epochs") if name in reasons]
    what = f"; {', '.join(guarded)} were chosen for that" if guarded else ""
    return JobWarning(
        reason=FEW_RECORDS,
        message=f"only {count} records to train on: below {_FEW} an adapter tends to learn them by "
        f"heart instead of what they have in common{what}",
    )
