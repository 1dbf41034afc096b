"""What the dispatcher needs of where workers run: see `LocalExecutor` and `RayExecutor`."""

from __future__ import annotations

from typing import Protocol

from tailorbird.errors import Unavailable
from trainer_svc.protocol import Cancel, Report, Start, Suspend, Upload


class WorkerLost(Unavailable):
    """The worker process is gone, or says what no worker says.

    The message is for every tenant that had a job there. `from_outside`: it was ended by what no
    job does, such as a signal that somebody sent, or its machine's end; else it may have been the
    doing of a job. `printed` is what it printed last, for who had the worker alone.
    """

    default_reason = "WORKER_LOST"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        from_outside: bool = False,
        printed: str = "",
    ) -> None:
        super().__init__(message, reason=reason)
        self.from_outside = from_outside
        self.printed = printed

    def again(self, *, alone: bool = False) -> WorkerLost:
        """Return the same for one more who waits; one who was `alone` reads what was printed."""
        told = f"{self.message}; it printed last: {self.printed}"
        return WorkerLost(
            told if alone and self.printed else self.message,
            reason=self.reason,
            from_outside=self.from_outside,
        )


class Worker(Protocol):
    """A process that has the base model loaded and trains jobs on it."""

    async def send(self, command: Start | Upload | Cancel | Suspend) -> None:
        """Give a command; WorkerLost if nobody is there to take it."""

    async def receive(self) -> Report:
        """Wait for the next report; WorkerLost if there will be none."""

    async def close(self) -> None:
        """End the worker, whatever it does, and wait until it is gone."""


class Executor(Protocol):
    """Starts workers."""

    async def start(self, index: int, base: str) -> Worker:
        """Start worker `index` and wait until it has loaded the base with the digest `base`.

        Raises WorkerLost if it dies or hangs, FailedPrecondition if no worker can load the base.
        """
