"""Child processes that end with the bench, however it ends, and show their log when they die."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import tailorbird

# Becomes the command, and gets SIGTERM when this process dies.
_LAUNCHER = Path(tailorbird.__file__).with_name("cli") / "child.py"
_LAUNCH = (sys.executable, "-I", "-S", str(_LAUNCHER))
_TAIL_BYTES = 8 * 1024
_TAIL_LINES = 30
_POLL_SECONDS = 0.2
_STOP_SECONDS = 15.0


class BenchFailed(Exception):
    """The bench cannot go on; the text says why, with the end of the log concerned."""


class Process:
    """`python ARGUMENTS`, or another program, in a group of its own, its output in a file."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        *,
        program: str = sys.executable,
        piped: bool = False,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.log = log
        pipe = subprocess.PIPE if piped else None
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [*_LAUNCH, str(os.getpid()), program, *arguments],
                env=dict(environment),
                stdin=pipe or subprocess.DEVNULL,
                stdout=pipe or file,
                stderr=file,
                # A group, not a session: Linux shares the CPUs out by session, and a caller in
                # another one than its server waits up to half a second for its turn.
                process_group=0,
                pass_fds=pass_fds,
                text=True,
            )

    @property
    def pid(self) -> int:
        """Its process id; also that of its group."""
        return self._process.pid

    @property
    def stdin(self) -> IO[str]:
        """Its input, if it is piped."""
        assert self._process.stdin is not None  # noqa: S101
        return self._process.stdin

    @property
    def stdout(self) -> IO[str]:
        """Its output, if it is piped."""
        assert self._process.stdout is not None  # noqa: S101
        return self._process.stdout

    @property
    def has_ended(self) -> bool:
        """Whether it runs no more."""
        return self._process.poll() is not None

    def check(self) -> None:
        """Raise BenchFailed if it has ended."""
        status = self._process.poll()
        if status is not None:
            raise BenchFailed(f"{self.name} ended with status {status}; {self.tail()}")

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens if it has ended."""
        self._process.send_signal(number)

    def status(self, limit_seconds: float) -> int:
        """Wait for its end and return its exit status; BenchFailed if it takes longer."""
        try:
            return self._process.wait(limit_seconds)
        except subprocess.TimeoutExpired as error:
            raise BenchFailed(
                f"{self.name} took more than {limit_seconds:.0f} s; {self.tail()}"
            ) from error

    def wait(self, limit_seconds: float) -> None:
        """Wait for its end; BenchFailed if it fails or takes longer."""
        status = self.status(limit_seconds)
        if status:
            raise BenchFailed(f"{self.name} ended with status {status}; {self.tail()}")

    def tail(self) -> str:
        """Return the last lines of its log."""
        with self.log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]
        return "\n".join([f"the end of {self.log}:", *lines])

    def stop(self) -> None:
        """Ask it to end, then kill it and every process of its session."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


class LineChild:
    """A child that answers a line of JSON with a line of JSON."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def send(self, line: str) -> None:
        """Send a line. That the child has gone is told by `receive`."""
        with suppress(BrokenPipeError):
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()

    def receive(self, limit_seconds: float, others: Sequence[Process] = ()) -> dict[str, Any]:
        """Return the next answer.

        BenchFailed when the child or one of `others` ends, when there is no answer in time, or
        when the answer tells of an error.
        """
        deadline = time.monotonic() + limit_seconds
        while True:
            with suppress(queue.Empty):
                return self._told(self._lines.get(timeout=_POLL_SECONDS))
            for process in others:
                process.check()
            if self.process.has_ended:
                # Its last words may have come since.
                self._reader.join()
                with suppress(queue.Empty):
                    return self._told(self._lines.get_nowait())
                self.process.check()
            if time.monotonic() > deadline:
                raise BenchFailed(
                    f"{self.process.name} gave no answer in {limit_seconds:.0f} s; "
                    f"{self.process.tail()}"
                )

    def stop(self) -> None:
        """End it."""
        self.process.stop()
        self._reader.join()

    def _told(self, reply: str) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(reply)
        if "error" in told:
            raise BenchFailed(f"{self.process.name}: {told['error']}; {self.process.tail()}")
        return told

    def _read(self) -> None:
        with suppress(ValueError):
            for line in self.process.stdout:
                self._lines.put(line)


def free_port() -> int:
    """Return a port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
