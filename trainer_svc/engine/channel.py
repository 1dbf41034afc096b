"""The worker's end of the socket: commands come in by one thread, reports go out by another.

Neither needs the event loop or the step thread: the process exits at once when the other end
closes, whatever it is doing, and a report never waits for a step.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from queue import SimpleQueue
from threading import Condition, Thread
from typing import BinaryIO

from trainer_svc.jobs.events import StepProgress
from trainer_svc.protocol import (
    COMMAND,
    Alive,
    Cancel,
    LeaseKey,
    Reported,
    Start,
    Suspend,
    Upload,
    WorkerSettings,
    encode,
)
from trainer_svc.record import Record

_CROWDED = 256
"""Reports waiting from which on a lease's progress waits but once."""
_FULL = 16_384


class Outbox:
    """Reports on their way to the socket, in the order in which they were put, by any thread.

    While the service takes none, a lease's newer StepProgress replaces the one that waits, and
    who puts more than `full` reports waits: memory stays bounded.
    """

    def __init__(self, *, crowded: int = _CROWDED, full: int = _FULL) -> None:
        self._crowded = crowded
        self._full = full
        self._changed = Condition()
        self._waiting: dict[int, Record] = {}
        self._progress: dict[LeaseKey, int] = {}
        self._count = 0

    def __len__(self) -> int:
        """Return how many reports wait."""
        return len(self._waiting)

    def put(self, report: Record) -> None:
        """Add a report; wait while there is no room for it."""
        with self._changed:
            lease = _progress_of(report)
            if lease is not None and len(self._waiting) >= self._crowded:
                self._waiting.pop(self._progress.get(lease, -1), None)
            self._changed.wait_for(lambda: len(self._waiting) < self._full)
            self._count += 1
            self._waiting[self._count] = report
            if lease is not None:
                self._progress[lease] = self._count
            self._changed.notify_all()

    def put_alone(self, report: Record) -> bool:
        """Add a report if none waits; return whether it was added."""
        with self._changed:
            if self._waiting:
                return False
            self.put(report)
            return True

    def take(self) -> Record:
        """Wait for the oldest report and return it; it waits no longer."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting)
            number = next(iter(self._waiting))
            report = self._waiting.pop(number)
            lease = _progress_of(report)
            if lease is not None and self._progress[lease] == number:
                del self._progress[lease]
            self._changed.notify_all()
            return report


class Channel:
    """The socket to the service."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines: BinaryIO = connection.makefile("rb")
        self.settings = WorkerSettings.model_validate_json(self._lines.readline() or gone())
        self.inbox: SimpleQueue[Start | Upload | Cancel | Suspend] = SimpleQueue()
        self._outbox = Outbox()
        for name, work in (("commands", self._read), ("reports", self._write)):
            Thread(target=work, name=name, daemon=True).start()

    @property
    def send(self) -> Callable[[Record], None]:
        """Takes one report; it goes out after those that were taken before."""
        return self._outbox.put

    def send_last(self, report: Record) -> None:
        """Write a report that nothing was sent before, now."""
        self._transmit(report)

    def say_alive(self) -> bool:
        """Say that the process runs, unless something waits to be said; return whether it did."""
        return self._outbox.put_alone(Alive())

    def _read(self) -> None:
        try:
            for line in self._lines:
                self.inbox.put(COMMAND.validate_json(line))
        except (OSError, ValueError) as error:
            sys.stderr.write(f"worker: the command socket is broken: {type(error).__name__}\n")
        gone()

    def _write(self) -> None:
        while True:
            self._transmit(self._outbox.take())

    def _transmit(self, report: Record) -> None:
        try:
            self._connection.sendall(encode(report))
        except OSError:
            gone()


def gone() -> bytes:
    """End the process: nobody is there to work for."""
    sys.stderr.flush()
    os._exit(0)


def _progress_of(report: Record) -> LeaseKey | None:
    if isinstance(report, Reported) and isinstance(report.event, StepProgress):
        return report.lease
    return None
