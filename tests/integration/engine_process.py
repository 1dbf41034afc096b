"""Drives a real worker process over its socket."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from tailorbird.base_model import load_base_model
from trainer_svc.protocol import REPORT, Ready, Reported, Start, WorkerSettings, encode
from trainer_svc.record import Record

R = TypeVar("R", bound=Record)


class WorkerProcess:
    def __init__(
        self,
        base: Path,
        store: Path,
        scratch: Path,
        *,
        gradient_checkpointing: bool = False,
        general_data: str = "",
        silence_seconds: float | None = None,
    ) -> None:
        files = load_base_model(str(base), scratch / "cache", "tiny-llama")
        self.settings = WorkerSettings(
            object_store=store.as_uri(),
            base_model_path=str(base),
            base_model_name="tiny-llama",
            base_model_digest=files.digest,
            chat_template_digest=files.chat_template_digest,
            device="cpu",
            threads=1,
            scratch_dir=str(scratch / "worker"),
            cache_dir=str(scratch / "cache" / "datasets"),
            cache_bytes=2**30,
            progress_interval=0.0,
            gradient_checkpointing=gradient_checkpointing,
            general_data=general_data,
            silence_seconds=silence_seconds,
        )
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "trainer_svc.engine", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONWARNINGS": "default"},
            )
        ours.settimeout(120)
        self.socket = ours
        self._lines = ours.makefile("rb")
        self.send(self.settings)

    def send(self, message: Record) -> None:
        """Send a message; a job that names no base is for the one this worker has."""
        if isinstance(message, Start) and not message.assignment.base_model_digest:
            base = {"base_model_digest": self.settings.base_model_digest}
            message = Start(assignment=message.assignment.model_copy(update=base))
        self.socket.sendall(encode(message))

    def next(self) -> Record:
        line = self._lines.readline()
        assert line, "the worker is gone"
        report: Record = REPORT.validate_json(line)
        return report

    def until(self, kind: type[R]) -> tuple[list[Record], R]:
        """Return what comes before the first report, or reported event, of `kind`, and it."""
        before: list[Record] = []
        while True:
            report = self.next()
            found = report.event if isinstance(report, Reported) else report
            if isinstance(found, kind):
                return before, found
            before.append(found)

    def ready(self) -> WorkerProcess:
        assert isinstance(self.next(), Ready)
        return self

    def close(self) -> None:
        self._lines.close()
        self.socket.close()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        try:
            self.process.wait(timeout=20)
        finally:
            self.process.kill()
            self.process.wait()
