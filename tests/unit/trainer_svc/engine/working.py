"""A worker in this process: a real base, step thread and store, and what it says."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import psutil

from tests.unit.trainer_svc.engine.stores import TryingStore
from tests.unit.trainer_svc.engine.tiny import assignment, chats, jsonl
from trainer_svc.engine.judging.references import References
from trainer_svc.engine.loop import StepThread
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.engine.worker import Worker
from trainer_svc.jobs.model import Hyperparameters
from trainer_svc.protocol import Assignment, LeaseKey, Reported, Start, WorkerSettings
from trainer_svc.record import Record

DATA = jsonl(chats(20))
LONG = Hyperparameters(epochs=10_000, batch_tokens=64, checkpoint_interval=1000)
R = TypeVar("R", bound=Record)


def tokenising_processes(parent: int | None = None) -> list[psutil.Process]:
    """Return those of this process, or of another."""
    children = psutil.Process(parent).children()
    return [each for each in children if "trainer_svc.engine.data.tokenising" in each.cmdline()]


class Working:
    def __init__(
        self,
        bank: AdapterBank,
        folder: Path,
        name: str = "worker-0",
        *,
        digest: str = "",
        references: References | None = None,
    ) -> None:
        self.bank = bank
        self.store = TryingStore(folder / "store")
        self.scratch = folder / "scratch" / name
        self.heard: list[Any] = []
        """Every report, and instead of Reported its event, as (lease, report)."""
        self.open_files = ExitStack()
        """Closed by whoever closes `steps`."""
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.steps = StepThread(bank, progress_interval=0.0)
        settings = WorkerSettings(
            object_store="",
            base_model_path="",
            base_model_name="tiny",
            base_model_digest=digest,
            chat_template_digest=digest,
            device="cpu",
            threads=1,
            scratch_dir=str(self.scratch),
            cache_dir=str(folder / "cache" / "datasets"),
            cache_bytes=2**30,
            progress_interval=0,
        )
        self.worker = Worker(
            settings, bank, self.steps, self.store, self._send, references=references
        )

    def _send(self, report: Record) -> None:
        self._loop.call_soon_threadsafe(self._hear, report)

    def _hear(self, report: Any) -> None:
        said = report.event if isinstance(report, Reported) else report
        self.heard.append((report.lease, said))
        self._news.set()

    async def job(self, name: str, data: bytes = DATA, **changes: Any) -> Assignment:
        """Store the data and return a job on it."""
        job = assignment(data, name, **changes)
        await self.store.seed(job.training.key, data)
        return job

    async def start(self, name: str, data: bytes = DATA, **changes: Any) -> Assignment:
        job = await self.job(name, data, **changes)
        self.worker.take(Start(assignment=job))
        return job

    async def until(self, kind: type[R], lease: LeaseKey) -> R:
        """Wait for the first report or event of `kind` of the lease, and return it."""
        async with asyncio.timeout(60):
            while True:
                for of, said in self.heard:
                    if of == lease and isinstance(said, kind):
                        return said
                await self.news()

    async def news(self) -> None:
        """Wait for the next report."""
        self._news.clear()
        await self._news.wait()

    def of(self, lease: LeaseKey) -> list[Any]:
        return [said for of, said in self.heard if of == lease]

    @property
    def left_behind(self) -> list[Path]:
        """What jobs have on the worker's disk."""
        return list((self.scratch / "jobs").glob("*"))

    async def attached(self, job: str) -> bool:
        return await asyncio.wrap_future(self.steps.call(lambda: job in self.bank._adapters))
