"""Redaction in a process of its own: however much is recorded, no stream waits for its interpreter.

What ends that process, lack of memory or a fault in a library, ends at most the record that it was
at.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.connection import Connection
from threading import Event, Lock, Timer
from typing import TYPE_CHECKING, Any

import structlog

from serving_svc.feedback.redacting import Asked
from tailorbird.errors import FailedPrecondition, InvalidArgument, Unavailable
from tailorbird.feedback import FeedbackRecord
from tailorbird.personal_data.modes import Mode
from tailorbird.pieces import Done

if TYPE_CHECKING:
    from tailorbird.personal_data.scanner import Scanner

_log = structlog.get_logger(__name__)

_MODULE = f"{__package__}.redacting"
_SECONDS = 60.0
"""A hundred times the longest piece in 40 s of a megabyte of numbers, on two busy cores: 0.6 s."""
_TRIES = 2


class _Lost(Exception):
    """The process cannot be started, or has ended by itself."""


class _LostToAnother(Exception):
    """The process has ended at another record's piece."""


@dataclass
class _Tries:
    """How often a process may still be lost at one and the same."""

    left: int = _TRIES

    def lost(self, error: _Lost) -> None:
        """Count a loss; Unavailable (REDACTION_LOST) at the last."""
        _log.warning("redaction process lost", error=str(error))
        self.left -= 1
        if not self.left:
            raise Unavailable(
                f"the process that looks for personal data {error}", reason="REDACTION_LOST"
            ) from error


@dataclass(frozen=True, slots=True)
class _Child:
    process: subprocess.Popen[bytes]
    connection: Connection
    given_up: list[int] = field(default_factory=list)
    """Records that it is to forget, with the next message."""

    def end(self) -> int:
        """End it, and return its exit status."""
        self.process.kill()
        return self.process.wait()


class RedactionProcess:
    """A process that is asked by one thread at a time; `close` may come from another.

    `scanner` is called there, and reaches it pickled.
    """

    def __init__(self, scanner: Callable[[], Scanner], mode: Mode) -> None:
        self._begin = scanner, mode
        self._child: _Child | None = None
        self._closed = False
        self._lock = Lock()
        self._numbers = count()

    def start(self) -> None:
        """Start the process unless it runs. Blocking: seconds.

        Raises what `scanner` does, and what `redacting` does.
        """
        tries = _Tries()
        while True:
            try:
                self._running()
            except _Lost as error:
                tries.lost(error)
            else:
                return

    def redacting(self, record: FeedbackRecord) -> Generator[None, None, FeedbackRecord]:
        """Pause after each piece, and return the record as it may be stored. Pieces are blocking.

        Between two pieces others may have theirs. A process that is lost is started again, and has
        the record once more: it may have been killed long before. Raises what `Replacer.replace`
        does, FailedPrecondition (REDACTION_TIMED_OUT), and Unavailable: REDACTION_LOST, or
        SHUTTING_DOWN once closed.
        """
        tries = _Tries()
        while True:
            try:
                return (yield from self._pieces(record))
            except _LostToAnother:
                continue
            except _Lost as error:
                tries.lost(error)

    def close(self) -> None:
        """End the process; who waits for it gets Unavailable."""
        with self._lock:
            self._closed = True
            child, self._child = self._child, None
            if child is not None:
                child.end()

    def _pieces(self, record: FeedbackRecord) -> Generator[None, None, FeedbackRecord]:
        try:
            child = self._running()
        except (InvalidArgument, FailedPrecondition) as error:
            # It is about a setting that was right, or a start that hung: about no record.
            raise _Lost(f"cannot be started: {error.message}") from error
        number = next(self._numbers)
        done = self._piece(child, number, record)
        while done is None:
            try:
                yield
            except GeneratorExit:
                child.given_up.append(number)
                raise
            if self._child is not child:
                raise _LostToAnother
            done = self._piece(child, number)
        return done.result

    def _piece(
        self, child: _Child, number: int, record: FeedbackRecord | None = None
    ) -> Done[FeedbackRecord] | None:
        given_up = tuple(child.given_up)
        child.given_up.clear()
        done: Done[FeedbackRecord] | None = self._answer(child, Asked(number, record, given_up))
        return done

    def _running(self) -> _Child:
        with self._lock:
            if self._closed:
                raise stopping()
            if self._child is not None:
                return self._child
            child = self._child = _started()
        try:
            self._answer(child, self._begin)
        except Exception:
            self._forget(child)
            raise
        return child

    def _answer(self, child: _Child, message: object) -> Any:
        """Return what the process makes of a message; raises the error that this is."""
        late = Event()

        def give_up() -> None:
            late.set()
            child.process.kill()

        timer = Timer(_SECONDS, give_up)
        timer.daemon = True
        timer.start()
        try:
            child.connection.send(message)
            answer = child.connection.recv()
        except (OSError, EOFError) as error:
            raise self._lost(child, late=late.is_set()) from error
        except Exception:
            # What it still answers would be taken for the next record, of another tenant maybe.
            self._forget(child)
            raise
        finally:
            timer.cancel()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _lost(self, child: _Child, *, late: bool) -> Exception:
        """Return the error for a process that has ended."""
        status = self._forget(child)
        if self._closed:
            return stopping()
        if not late:
            return _Lost(f"ended with status {status}")
        return FailedPrecondition(
            f"looking for personal data did not end within {_SECONDS:g} s and was given up",
            reason="REDACTION_TIMED_OUT",
            seconds=f"{_SECONDS:g}",
        )

    def _forget(self, child: _Child) -> int:
        """End a process, unless it has ended, and return its exit status."""
        status = child.end()
        child.connection.close()
        with self._lock:
            self._child = None
        return status


def _started() -> _Child:
    try:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", _MODULE, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # A Ctrl-C is for serving, which ends it.
                start_new_session=True,
            )
            return _Child(process, Connection(ours.detach()))
    except OSError as error:
        raise _Lost(f"cannot be started: {error.strerror}") from error


def stopping() -> Unavailable:
    """Return the error of a record that came, or waited, when serving ended."""
    return Unavailable("serving is stopping", reason="SHUTTING_DOWN")
