"""`python -m trainer_svc.engine <fd>`: one worker process on an inherited socket.

The reader starts before anything heavy is imported, so that the process never outlives its parent.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import BinaryIO

from tailorbird.errors import TailorbirdError
from tailorbird.object_store import open_store
from tailorbird.printed import log_what_is_printed
from tailorbird.telemetry import configure_logging
from trainer_svc.jobs.model import JobError
from trainer_svc.protocol import (
    COMMAND,
    Cancel,
    Ready,
    Start,
    Suspend,
    Unusable,
    Upload,
    WorkerSettings,
    encode,
)
from trainer_svc.record import Record


class Channel:
    """The socket to the service: commands come in by a thread, reports go out.

    The process exits at once when the other end closes, whatever it is doing.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines: BinaryIO = connection.makefile("rb")
        self.settings = WorkerSettings.model_validate_json(self._lines.readline() or _gone())
        self.inbox: SimpleQueue[Start | Upload | Cancel | Suspend] = SimpleQueue()
        Thread(target=self._read, name="commands", daemon=True).start()

    def send(self, message: Record) -> None:
        """Write one report."""
        try:
            self._connection.sendall(encode(message))
        except OSError:
            _gone()

    def _read(self) -> None:
        try:
            for line in self._lines:
                self.inbox.put(COMMAND.validate_json(line))
        except (OSError, ValueError) as error:
            sys.stderr.write(f"worker: the command socket is broken: {type(error).__name__}\n")
        _gone()


def _gone() -> bytes:
    sys.stderr.flush()
    os._exit(0)


def main(fd: int) -> None:
    """Load the base, say Ready, and serve until the socket closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=fd))
    settings = channel.settings
    configure_logging(settings.log_format, settings.log_level)
    log_what_is_printed(settings.log_format)
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    # Threads that wait for one another spin. Where somebody else uses their cores that costs most
    # of the speed; without any spinning half of it is gone everywhere. Read when torch is imported.
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "1000"

    import torch
    from transformers.utils.logging import disable_progress_bar

    from trainer_svc.engine.base import limit_memory, load_base
    from trainer_svc.engine.step.bank import AdapterBank
    from trainer_svc.engine.worker import Worker

    disable_progress_bar()
    torch.set_num_threads(settings.threads)
    torch.set_num_interop_threads(1)
    Path(settings.scratch_dir).mkdir(parents=True, exist_ok=True)
    try:
        limit_memory(settings.device, settings.gpu_memory_share)
        base = load_base(settings.base_model_path, settings.device)
    except Exception as error:
        channel.send(Unusable(error=_told(error)))
        sys.exit(1)
    with asyncio.Runner() as runner:
        store = open_store(settings.object_store)
        worker = Worker(settings, AdapterBank(base), store, runner, channel.inbox, channel.send)
        channel.send(Ready(device=settings.device, dtype=str(base.dtype).removeprefix("torch.")))
        worker.serve()


def _told(error: Exception) -> JobError:
    if isinstance(error, TailorbirdError):
        return JobError(reason=error.reason, message=error.message, metadata=error.metadata)
    text = " ".join(str(error).split())[:500]
    return JobError(
        reason="BASE_UNUSABLE",
        message=f"the base model cannot be loaded: {type(error).__name__}: {text}",
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
