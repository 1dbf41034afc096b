"""Gives every lease a task of its own, and every command to the lease it belongs to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from tailorbird.object_store import ObjectStore
from trainer_svc.engine.course import Tools
from trainer_svc.engine.data.cache import DatasetCache
from trainer_svc.engine.data.files import DatasetFiles
from trainer_svc.engine.judging.references import References
from trainer_svc.engine.judging.screening import Screening
from trainer_svc.engine.loop import StepThread
from trainer_svc.engine.member import JobTask
from trainer_svc.engine.preparation import Preparer
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.protocol import Cancel, LeaseKey, Start, Suspend, Upload, WorkerSettings
from trainer_svc.record import Record

AnyCommand = Start | Upload | Cancel | Suspend

log = structlog.get_logger(__name__)


class Worker:
    """Takes commands and answers with `send`; see `trainer_svc.protocol`. All in the event loop."""

    def __init__(
        self,
        settings: WorkerSettings,
        bank: AdapterBank,
        steps: StepThread,
        store: ObjectStore,
        send: Callable[[Record], None],
        references: References | None = None,
    ) -> None:
        cache = DatasetCache(Path(settings.cache_dir), settings.cache_bytes)
        files = DatasetFiles(store, cache)
        preparer = Preparer(bank.base, files, cache)
        against = references or References()
        screening = None if against.screen is None else Screening(files, against.screen)
        self._tools = Tools(settings, bank, steps, store, files, preparer, against, screening, send)
        self._leases: dict[LeaseKey, JobTask] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """The newest lease of each job; it began when those before it had ended."""

    async def serve(self, receive: Callable[[], AnyCommand]) -> None:
        """Take one command after another from `receive`, which waits for it, for ever."""
        while True:
            self.take(await asyncio.to_thread(receive))

    def take(self, command: AnyCommand) -> None:
        """Do what the command says, or drop it if nobody here holds its lease."""
        task = self._leases.get(command.lease)
        if isinstance(command, Start):
            if task is None:
                self._start(command)
        elif task is not None:
            task.take(command)
        else:
            log.info("too late", command=command.kind, job=command.lease.job)

    def _start(self, command: Start) -> None:
        lease = command.lease
        for older in self._leases.values():
            older.shared = True
            if older.lease.job == lease.job:
                older.take(Cancel(lease=older.lease))
        task = JobTask(command.assignment, self._tools)
        task.shared = bool(self._leases)
        self._leases[lease] = task
        self._tasks[lease.job] = asyncio.create_task(self._run(task, self._tasks.get(lease.job)))

    async def _run(self, task: JobTask, before: asyncio.Task[None] | None) -> None:
        """Run the job when the one before, under an older lease, has left the base."""
        if before is not None:
            await asyncio.wait({before})
        try:
            await task.run()
        finally:
            del self._leases[task.lease]
            if self._tasks[task.lease.job] is asyncio.current_task():
                del self._tasks[task.lease.job]
