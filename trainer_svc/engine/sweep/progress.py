"""The steps of all of a sweep's trials, told as those of one job."""

from __future__ import annotations

import time
from collections.abc import Mapping

from trainer_svc.jobs.events import StepProgress


class SweepProgress:
    """Sums up what the trials say of their steps; at most one in `interval` seconds is passed on.

    `total` are the steps of all of them, and may be set by another thread than the one that steps.
    """

    def __init__(self, steps: Mapping[int, int], total: int, interval: float) -> None:
        self.total = total
        self._steps = dict(steps)
        self._tokens: dict[int, int] = {}
        self._interval = interval
        self._told_at = time.monotonic()
        self._told_steps, self._told_tokens = sum(self._steps.values()), 0
        self._first = True

    def begins(self, trial: int, step: int, tokens: int) -> None:
        """Take a trial's place from its checkpoint: how fast it came there was told before.

        Between the steps of all trials.
        """
        self._told_steps += step - self._steps.get(trial, 0)
        self._told_tokens += tokens - self._tokens.get(trial, 0)
        self._steps[trial], self._tokens[trial] = step, tokens

    def after(self, trial: int, event: StepProgress) -> StepProgress | None:
        """Return what the job's history says of a trial's step, if it is its turn.

        The loss, the rates and the epoch are the trial's.
        """
        self._steps[trial], self._tokens[trial] = event.step, event.tokens
        steps, tokens = sum(self._steps.values()), sum(self._tokens.values())
        now = time.monotonic()
        passed = max(now - self._told_at, 1e-6)
        if passed < self._interval and not self._first and steps < self.total:
            return None
        taken, read = steps - self._told_steps, tokens - self._told_tokens
        self._first, self._told_at = False, now
        self._told_steps, self._told_tokens = steps, tokens
        return event.model_copy(
            update={
                "step": steps,
                "total_steps": max(self.total, steps),
                "tokens": tokens,
                "tokens_per_second": max(0.0, read / passed),
                "eta_seconds": (self.total - steps) * passed / taken if taken > 0 else 0.0,
            }
        )
