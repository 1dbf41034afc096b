"""Workers as child processes of the service."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from trainer_svc.dispatch.child import spawn
from trainer_svc.dispatch.executor import Worker, WorkerLost
from trainer_svc.dispatch.process_worker import ProcessWorker
from trainer_svc.protocol import Ready, WorkerSettings

_log = structlog.get_logger(__name__)

_ENGINE = "trainer_svc.engine"
_LOAD_SECONDS = 3600.0
"""More than any load takes: one that hangs, on a volume that is gone, gives its slot back."""


class LocalExecutor:
    """Starts workers on this machine.

    `settings` is theirs but for the scratch folder, by the digest of the base. Where there are
    several `gpus`, each worker sees one, in turn. `memory`: bytes that each may have of the
    machine's memory, with the processes that it starts; None: no limit.
    """

    def __init__(
        self,
        settings: Mapping[str, WorkerSettings],
        *,
        gpus: Sequence[str] = (),
        memory: int | None = None,
    ) -> None:
        self._settings = settings
        self._gpus = gpus
        self._memory = memory
        self.ready: dict[str, Ready] = {}
        """What the newest worker with each base said once it was loaded."""

    async def start(self, index: int, base: str) -> Worker:
        """See Executor."""
        settings = self._settings[base]
        scratch = Path(settings.scratch_dir) / f"worker-{index}"
        environment = {}
        if len(self._gpus) > 1:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[index % len(self._gpus)]
        try:
            await asyncio.to_thread(_empty, scratch)
            child = await spawn(
                _ENGINE,
                environment=environment,
                memory=self._memory,
                silence=settings.silence_seconds,
            )
        except OSError as error:
            # A full disk, no file descriptor, no memory to fork: another try may fare better.
            raise WorkerLost(f"no worker process can be started: {error}") from error
        worker = ProcessWorker(child)
        own = settings.model_copy(update={"scratch_dir": str(scratch)})
        ready = self.ready[base] = await worker.begin(own, _LOAD_SECONDS)
        name, report = settings.base_model_name, ready.model_dump()
        _log.info("worker ready", index=index, pid=worker.pid, base=name, report=report)
        return worker


def _empty(scratch: Path) -> None:
    shutil.rmtree(scratch, ignore_errors=True)
    # What could not be removed is in the worker's way less than no worker is in the jobs'.
    scratch.mkdir(parents=True, exist_ok=True)
