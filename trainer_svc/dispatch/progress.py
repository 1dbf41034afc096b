"""What is counted of a lease as its worker reports: steps, tokens, and a sweep's trials."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from trainer_svc.jobs.events import EventPayload, Resumed, StepProgress
from trainer_svc.jobs.sweep import RungDecided, SweepResults, TrialReached
from trainer_svc.metrics import TrainerMetrics


class Progress:
    """Counts one lease; `results` are those of a sweep before it.

    `halved` hears how many of a sweep's trials go on after a rung.
    """

    def __init__(
        self,
        metrics: TrainerMetrics,
        results: SweepResults | None,
        halved: Callable[[int], None],
    ) -> None:
        self._metrics = metrics
        self._results = results
        self._halved = halved
        self._step = 0
        self._tokens: int | None = 0
        """As last reported; None where a checkpoint has some that are not told."""

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count the sweep's trials as active while the context lasts."""
        self._metrics.trials.inc(_active(self._results))
        try:
            yield
        finally:
            self._metrics.trials.dec(_active(self._results))

    def reported(self, event: EventPayload) -> None:
        """Count what a worker has reported, recorded or not."""
        if isinstance(event, StepProgress):
            self._metrics.steps.inc(max(0, event.step - self._step))
            if self._tokens is not None:
                self._metrics.tokens.inc(max(0, event.tokens - self._tokens))
            self._step, self._tokens = event.step, event.tokens
        elif isinstance(event, Resumed) and event.resumed_from_step:
            self._step, self._tokens = event.resumed_from_step, None

    def recorded(self, event: EventPayload) -> None:
        """Count what a sweep's history says now."""
        before = self._results
        if before is None or not isinstance(event, TrialReached | RungDecided):
            return
        after = self._results = before.after(event)
        for known, was in zip(after.trials, before.trials, strict=True):
            if known.stop_reason and not was.stop_reason:
                self._metrics.trials.dec()
                self._metrics.trials_stopped.labels(known.stop_reason).inc()
        if isinstance(event, RungDecided) and event.going_on:
            self._halved(len(event.going_on))


def _active(results: SweepResults | None) -> int:
    return 0 if results is None else len(results.active)
