"""Checkpoints written while training goes on."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import structlog

from tailorbird.errors import TailorbirdError
from trainer_svc.engine.failures import ran_out_of_disk
from trainer_svc.engine.result.checkpoint import Checkpoints
from trainer_svc.engine.step.run import Snapshot
from trainer_svc.jobs.events import CheckpointSaved, EventPayload, JobWarning

CHECKPOINT_FAILED = "CHECKPOINT_FAILED"
_PATIENCE_SECONDS = 5.0

log = structlog.get_logger(__name__)


class CheckpointWriter:
    """Writes the snapshots of one lease, one at a time, and reports each.

    A newer snapshot takes the place of one that waits, but the best one waits until it is written
    or a better one comes. What cannot be written is reported and left out; `disk_full` is called
    if that is why.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        report: Callable[[EventPayload], None],
        disk_full: Callable[[], None],
    ) -> None:
        self._checkpoints = checkpoints
        self._report = report
        self._disk_full = disk_full
        self._loop = asyncio.get_running_loop()
        self._offered: deque[tuple[Snapshot, bool]] = deque()
        """Kept, but not seen by the event loop yet."""
        self._waiting: list[tuple[Snapshot, bool]] = []
        self._task: asyncio.Task[None] | None = None

    def keep(self, snapshot: Snapshot, best: bool) -> None:
        """Take a snapshot to write; from any thread, without waiting."""
        self._offered.append((snapshot, best))
        self._loop.call_soon_threadsafe(self._take)

    def busy(self) -> bool:
        """Whether a snapshot waits for one that is being written; from any thread."""
        return bool(self._offered or self._waiting)

    async def written(self) -> None:
        """Wait until every snapshot taken so far is written, or could not be."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def stop(self) -> None:
        """Leave what waits unwritten. What is being written gets a few seconds to be over.

        Whoever deletes the job's checkpoints next must not be overtaken by one.
        """
        self._waiting.clear()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=_PATIENCE_SECONDS)
            self._task.cancel()
            await asyncio.wait({self._task})

    def _take(self) -> None:
        snapshot, best = self._offered.popleft()
        self._waiting = [entry for entry in self._waiting if entry[1] and not best]
        self._waiting.append((snapshot, best))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write())

    async def _write(self) -> None:
        while self._waiting:
            snapshot, best = self._waiting.pop(0)
            try:
                await self._checkpoints.save(snapshot, best=best)
            except TailorbirdError as error:
                full = ran_out_of_disk(error)
                self._failed(snapshot.step, "a disk is full" if full else error.message)
                if full:
                    self._disk_full()
            except Exception as error:
                log.exception("checkpoint not written", step=snapshot.step)
                self._failed(snapshot.step, type(error).__name__)
            else:
                self._report(CheckpointSaved(step=snapshot.step))

    def _failed(self, step: int, why: str) -> None:
        self._report(
            JobWarning(
                reason=CHECKPOINT_FAILED,
                message=f"the checkpoint of step {step} could not be written: {why}",
            )
        )
