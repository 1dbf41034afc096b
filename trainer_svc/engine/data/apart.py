"""Tokenising in a process of its own, which holds no other job's interpreter lock.

What ends it, lack of memory or a fault in a library, ends one lease and not the worker.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable

from tailorbird.errors import DataCorrupt, FailedPrecondition, Unavailable
from trainer_svc.engine.data.work import Outcome, Work
from trainer_svc.protocol import TOKENISING_LOST, encode

_MODULE = f"{__package__}.tokenising"
_CHECK_SECONDS = 0.05
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # It would say that there is no torch.
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}

_ERRORS = {"refused": FailedPrecondition, "corrupt": DataCorrupt, "unavailable": Unavailable}


def write_apart(work: Work, check: Callable[[], None]) -> None:
    """Have `work` done by a process of its own, which is gone when this returns.

    `check` is called meanwhile and may raise; the process is killed then. Raises what write_dataset
    does; and Unavailable if the tokenizer on disk has changed (BASE_MISMATCH), or if the process
    cannot be started, or ends by itself (TOKENISING_LOST).
    """
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = _started(theirs.fileno())
        try:
            answer = _asked(ours, encode(work), check)
        finally:
            process.kill()
            status = process.wait()
    if not answer.endswith(b"\n"):
        raise _lost(f"ended with status {status}")
    _raise(Outcome.model_validate_json(answer))


def _started(fd: int) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            [sys.executable, "-m", _MODULE, str(fd)],
            pass_fds=[fd],
            stdin=subprocess.DEVNULL,
            env={**os.environ, **_ENVIRONMENT},
        )
    except OSError as error:
        raise _lost(f"cannot be started: {error.strerror}") from error


def _asked(connection: socket.socket, line: bytes, check: Callable[[], None]) -> bytes:
    """Send the line and return the answer; it has no end of line if nobody is there to give it."""
    answer = b""
    connection.settimeout(_CHECK_SECONDS)
    try:
        connection.sendall(line)
        while not answer.endswith(b"\n"):
            check()
            try:
                more = connection.recv(2**16)
            except TimeoutError:
                continue
            if not more:
                break
            answer += more
    except ConnectionError:
        return b""
    return answer


def _raise(outcome: Outcome) -> None:
    if outcome.kind == "system":
        raise OSError(outcome.errno, os.strerror(outcome.errno))
    if outcome.error is not None:
        told = outcome.error
        raise _ERRORS[outcome.kind](told.message, reason=told.reason, **told.metadata)


def _lost(what: str) -> Unavailable:
    return Unavailable(f"the process that tokenises the dataset {what}", reason=TOKENISING_LOST)
