"""What "auto" means, as job.proto's comments promise it. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trainer_svc.engine.data.packing import StepPlan
from trainer_svc.jobs.model import Hyperparameters

_AIM_STEPS = 200
_MAX_AUTO_EPOCHS = 20
_STEPS_PER_EPOCH = 48
"""Small steps: at equal tokens, LoRA on a few hundred records learns faster from them."""
_LEAST_BATCH_TOKENS, _MOST_BATCH_TOKENS = 512, 8192
_MARKS = 10
"""Evaluations, and checkpoints, in a run."""


def auto_learning_rate(hidden_size: int) -> float:
    """Return LoRA's peak learning rate for a base of this width.

    About ten times full fine-tuning's and nearly independent of rank: LoRA Without Regret
    (Thinking Machines, 2025) and Tinker's `get_lr` for Llama-like models.
    """
    return float(5e-4 * (2000 / hidden_size) ** 0.78)


def sequence_limit(asked: int | None, context: int) -> int:
    """Return the longest record, in tokens, that is kept."""
    return context if asked is None else min(asked, context)


def resolve(
    asked: Hyperparameters, lengths: Sequence[int], *, hidden_size: int, context: int
) -> tuple[Hyperparameters, StepPlan]:
    """Make every choice the caller left open; return the values and the plan they give.

    `lengths` are the kept training records' token counts, `context` the base's longest sequence.
    """
    seed = asked.seed or 0
    batch_tokens = asked.batch_tokens or min(
        max(round(sum(lengths) / _STEPS_PER_EPOCH), _LEAST_BATCH_TOKENS), _MOST_BATCH_TOKENS
    )
    epochs = asked.epochs
    if epochs is None:
        one = StepPlan(lengths, batch_tokens=batch_tokens, seed=seed, epochs=1).total_steps
        epochs = min(math.ceil(_AIM_STEPS / one), _MAX_AUTO_EPOCHS)
    plan = StepPlan(lengths, batch_tokens=batch_tokens, seed=seed, epochs=epochs)
    tenth = max(1, round(plan.total_steps / _MARKS))
    return (
        Hyperparameters(
            learning_rate=_or(asked.learning_rate, auto_learning_rate(hidden_size)),
            epochs=epochs,
            batch_tokens=batch_tokens,
            max_sequence_length=sequence_limit(asked.max_sequence_length, context),
            warmup_ratio=_or(asked.warmup_ratio, 0.05),
            weight_decay=_or(asked.weight_decay, 0.0),
            seed=seed,
            evaluation_interval=asked.evaluation_interval or tenth,
            checkpoint_interval=asked.checkpoint_interval or tenth,
            early_stopping_patience=asked.early_stopping_patience or 0,
        ),
        plan,
    )


def learning_rate_at(step: int, total_steps: int, peak: float, warmup_ratio: float) -> float:
    """Return the rate of step `step`, counted from 1: a linear rise, then a cosine to a tenth."""
    warmup = round(total_steps * warmup_ratio)
    if step <= warmup:
        return peak * step / warmup
    passed = (step - warmup) / max(1, total_steps - warmup)
    floor = peak / 10
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * passed))


def _or(asked: float | None, chosen: float) -> float:
    return chosen if asked is None else asked
