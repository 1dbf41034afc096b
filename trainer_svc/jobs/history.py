"""A job's history read back, and its checkpoints with the losses that belong to them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncIterator
from datetime import datetime
from typing import NamedTuple, Protocol

from tailorbird.names import JobName
from trainer_svc.jobs.events import CheckpointSaved, Evaluation, JobEvent, StepProgress

_EVENTS_PER_READ = 500


class Recorded(Protocol):
    """The job store, as far as its history is read."""

    async def events(self, name: JobName, after_sequence: int, limit: int) -> list[JobEvent]:
        """Return up to `limit` events after a sequence, in order."""

    async def last_sequence(self, name: JobName) -> int:
        """Return the newest event's sequence; NotFound."""


class Checkpoint(NamedTuple):
    """A state that the run could go on from; the losses are the latest at its step, if any."""

    sequence: int
    time: datetime
    step: int
    train_loss: float | None
    valid_loss: float | None


class History:
    """Reads what happened to jobs, for whoever does not watch them."""

    def __init__(self, jobs: Recorded) -> None:
        self._jobs = jobs

    async def page(self, name: JobName, before: int | None, limit: int) -> list[JobEvent]:
        """Return up to `limit` events, newest first, that come before a sequence; None: the newest.

        What a later release wrote is among them, as Unknown. NotFound.
        """
        last = await self._jobs.last_sequence(name)
        end = last + 1 if before is None else min(before, last + 1)
        # Sequences have no gaps.
        begin = max(0, end - 1 - limit)
        found = await self._jobs.events(name, begin, max(0, end - 1 - begin))
        return found[::-1]

    async def checkpoints(self, name: JobName) -> list[Checkpoint]:
        """Return all checkpoints, newest first; reads the whole history. NotFound."""
        last = await self._jobs.last_sequence(name)
        saved: list[JobEvent] = []
        trained: dict[int, float] = {}
        validated: dict[int, float] = {}
        async for event in self._all(name, last):
            match event.payload:
                case StepProgress(step=step, loss=loss):
                    trained[step] = loss
                case Evaluation(step=step, validation_loss=loss):
                    validated[step] = loss
                case CheckpointSaved():
                    saved.append(event)
        train_loss, valid_loss = _Latest(trained), _Latest(validated)
        return [
            Checkpoint(event.sequence, event.time, step, train_loss.at(step), valid_loss.at(step))
            for event in reversed(saved)
            if isinstance(event.payload, CheckpointSaved)
            for step in [event.payload.step]
        ]

    async def _all(self, name: JobName, last: int) -> AsyncIterator[JobEvent]:
        read = 0
        while read < last:
            found = await self._jobs.events(name, read, min(_EVENTS_PER_READ, last - read))
            if not found:
                return
            for event in found:
                yield event
            read = found[-1].sequence


class _Latest:
    """Figures by step."""

    def __init__(self, figures: dict[int, float]) -> None:
        self._steps = sorted(figures)
        self._figures = figures

    def at(self, step: int) -> float | None:
        """Return the one of `step`, or of the nearest before it."""
        found = bisect_right(self._steps, step)
        return self._figures[self._steps[found - 1]] if found else None
