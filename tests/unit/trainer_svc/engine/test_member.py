"""One job through its phases, interrupted in each, on a real base, step thread and store."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
import structlog

from tailorbird.errors import StoreUnavailable
from tests.unit.trainer_svc.engine.tiny import chats, jsonl, later
from tests.unit.trainer_svc.engine.working import DATA, LONG, Working, tokenising_processes
from trainer_svc.engine.data.files import DatasetFiles
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.jobs.events import CheckpointSaved, JobWarning, Resumed, StepProgress
from trainer_svc.protocol import (
    Assignment,
    Cancel,
    Cancelled,
    DatasetRef,
    Evaluating,
    Failed,
    Start,
    Suspend,
    Suspended,
    Trained,
    Upload,
    Uploaded,
)

Begin = Callable[[Working, pytest.MonkeyPatch], Awaitable[Assignment]]
VERSION = "20261120T153000-uploading-1"


@pytest_asyncio.fixture
async def working(bank: AdapterBank, tmp_path: Path) -> AsyncIterator[Working]:
    working = Working(bank, tmp_path)
    yield working
    working.store.go_on.set()
    working.open_files.close()
    await asyncio.to_thread(working.steps.close)


class Held:
    """A function of the worker's that stands still, in whatever thread calls it."""

    def __init__(self, patch: pytest.MonkeyPatch, where: str) -> None:
        module, _, name = where.rpartition(".")
        self.real = getattr(__import__(module, fromlist=[name]), name)
        self.began = asyncio.Event()
        self.go_on = threading.Event()
        self._loop = asyncio.get_running_loop()
        patch.setattr(where, self)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self._loop.call_soon_threadsafe(self.began.set)
        assert self.go_on.wait(30)
        return self.real(*arguments, **named)


async def soon(event: asyncio.Event) -> None:
    async with asyncio.timeout(30):
        await event.wait()


async def downloading(working: Working, _: pytest.MonkeyPatch) -> Assignment:
    working.store.waits = "datasets"
    job = await working.start("downloading")
    await soon(working.store.waiting)
    return job


async def tokenising(working: Working, patch: pytest.MonkeyPatch) -> Assignment:
    """Reads records until it is told to stop, as if there were no end of them."""
    began = asyncio.Event()
    loop = asyncio.get_running_loop()

    def endless(_: Any, check: Callable[[], None]) -> Any:
        loop.call_soon_threadsafe(began.set)
        line = json.loads(DATA.splitlines()[0])
        while True:
            check()
            yield 1, line

    patch.setattr("trainer_svc.engine.data.writing._records", endless)
    job = await working.start("tokenising")
    await soon(began)
    return job


async def tokenising_apart(working: Working, patch: pytest.MonkeyPatch) -> Assignment:
    """A process of its own waits for the first record; whatever asks again gets the file."""
    patch.setattr("trainer_svc.engine.data.prepare._SMALL_BYTES", -1)
    pipe: asyncio.Queue[Path] = asyncio.Queue()
    downloaded = DatasetFiles.file

    async def piped(_: DatasetFiles, __: DatasetRef, folder: Path) -> Any:
        patch.setattr(DatasetFiles, "file", downloaded)
        path = folder / "pipe"
        os.mkfifo(path)
        await pipe.put(path)
        return SimpleNamespace(path=path)

    patch.setattr(DatasetFiles, "file", piped)
    job = await working.start("apart", jsonl(chats(20, seed=1)))
    async with asyncio.timeout(60):
        path = await pipe.get()
        working.open_files.enter_context(await asyncio.to_thread(path.open, "wb"))
    return job


async def training(working: Working, _: pytest.MonkeyPatch) -> Assignment:
    job = await working.start("training", hyperparameters=LONG)
    await working.until(StepProgress, job.lease)
    return job


async def evaluating(working: Working, patch: pytest.MonkeyPatch) -> Assignment:
    """The final evaluation has no end."""

    def endless(*_: Any) -> Any:
        while True:
            yield

    patch.setattr("trainer_svc.engine.result.judging.evaluation", endless)
    job = await working.start("evaluating")
    await working.until(Evaluating, job.lease)
    return job


async def packaging(working: Working, patch: pytest.MonkeyPatch) -> Assignment:
    held = Held(patch, "trainer_svc.engine.member.build_package")
    job = await working.start("packaging")
    await soon(held.began)
    asyncio.get_running_loop().call_later(0, held.go_on.set)
    return job


async def waiting(working: Working, _: pytest.MonkeyPatch) -> Assignment:
    job = await working.start("waiting")
    await working.until(Trained, job.lease)
    return job


async def uploading(working: Working, patch: pytest.MonkeyPatch) -> Assignment:
    job = await waiting(working, patch)
    working.store.waits = "versions"
    working.worker.take(Upload(lease=job.lease, version=VERSION))
    await soon(working.store.waiting)
    return job


async def not_begun(working: Working, _: pytest.MonkeyPatch) -> Assignment:
    return await working.start("not-begun")


PHASES = [
    not_begun,
    downloading,
    tokenising,
    tokenising_apart,
    training,
    evaluating,
    packaging,
    waiting,
    uploading,
]


async def _leaves(working: Working, job: Assignment, ending: type[Cancelled | Suspended]) -> None:
    """It ends so, and nothing of it is left or heard after that; another job works."""
    await working.until(ending, job.lease)
    assert not working.left_behind
    assert not tokenising_processes()
    assert not await working.attached(job.lease.job)
    working.store.waits = None
    working.store.go_on.set()
    other = await working.start("other", validation_fraction=None)
    await working.until(Trained, other.lease)
    working.worker.take(Cancel(lease=other.lease))
    await working.until(Cancelled, other.lease)
    assert isinstance(working.of(job.lease)[-1], ending)
    assert not working.left_behind


@pytest.mark.parametrize(("command", "ending"), [(Cancel, Cancelled), (Suspend, Suspended)])
@pytest.mark.parametrize("phase", PHASES)
async def test_cancel_and_suspend_are_seen_in_every_phase(
    working: Working,
    monkeypatch: pytest.MonkeyPatch,
    phase: Begin,
    command: type[Cancel | Suspend],
    ending: type[Cancelled | Suspended],
) -> None:
    job = await phase(working, monkeypatch)
    working.worker.take(command(lease=job.lease))
    said = await working.until(ending, job.lease)
    assert said == ending(lease=job.lease)
    monkeypatch.undo()
    await _leaves(working, job, ending)


async def test_suspended_is_said_when_the_last_checkpoint_is_written(working: Working) -> None:
    job = await working.start("saving", hyperparameters=LONG)
    await working.until(StepProgress, job.lease)
    working.store.waits = "manifest"
    working.worker.take(Suspend(lease=job.lease))
    await soon(working.store.waiting)
    assert not [said for said in working.of(job.lease) if isinstance(said, Suspended)]
    working.store.go_on.set()
    await working.until(Suspended, job.lease)
    saved = working.of(job.lease)[-2]
    assert isinstance(saved, CheckpointSaved)
    working.worker.take(Start(assignment=later(job)))
    resumed = await working.until(Resumed, later(job).lease)
    assert resumed.resumed_from_step == saved.step
    await working.until(StepProgress, later(job).lease)
    working.worker.take(Cancel(lease=later(job).lease))
    await working.until(Cancelled, later(job).lease)


async def test_a_cancel_overrides_a_suspend_that_waits_for_its_checkpoint(
    working: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer_svc.engine.result.checkpoint_writer._PATIENCE_SECONDS", 0.01)
    job = await working.start("overridden", hyperparameters=LONG)
    await working.until(StepProgress, job.lease)
    working.store.waits = "manifest"
    working.worker.take(Suspend(lease=job.lease))
    await soon(working.store.waiting)
    working.worker.take(Cancel(lease=job.lease))
    await working.until(Cancelled, job.lease)
    assert not [said for said in working.of(job.lease) if isinstance(said, Suspended)]


async def test_a_cancelled_job_writes_no_checkpoint(working: Working) -> None:
    job = await training(working, pytest.MonkeyPatch())
    working.worker.take(Cancel(lease=job.lease))
    await working.until(Cancelled, job.lease)
    assert not [key for key in working.store.puts if "checkpoints" in key]


async def test_a_full_disk_suspends_the_job_and_leaves_what_was_whole(working: Working) -> None:
    job = await working.start(
        "full", hyperparameters=LONG.model_copy(update={"checkpoint_interval": 3})
    )
    saved = await working.until(CheckpointSaved, job.lease)
    working.store.fails, working.store.full = "manifest", True
    suspended = await working.until(Suspended, job.lease)
    assert suspended.error is not None
    assert suspended.error.reason == "DISK_FULL"
    assert "make room" in suspended.error.message
    warnings = [said for said in working.of(job.lease) if isinstance(said, JobWarning)]
    assert "CHECKPOINT_FAILED" in [warning.reason for warning in warnings]
    assert not working.left_behind
    # Whoever goes on from it writes it as its own first, and waits for room as well.
    second = later(job)
    working.worker.take(Start(assignment=second))
    suspended = await working.until(Suspended, second.lease)
    assert suspended.error is not None
    assert suspended.error.reason == "DISK_FULL"
    working.store.fails = None
    again = later(second)
    working.worker.take(Start(assignment=again))
    resumed = await working.until(Resumed, again.lease)
    assert resumed.resumed_from_step >= saved.step
    working.worker.take(Cancel(lease=again.lease))
    await working.until(Cancelled, again.lease)


async def test_a_store_that_is_down_costs_the_checkpoint_alone(working: Working) -> None:
    working.store.fails = "checkpoints"
    job = await working.start("down")
    await working.until(Trained, job.lease)
    warnings = {said.reason for said in working.of(job.lease) if isinstance(said, JobWarning)}
    assert "CHECKPOINT_FAILED" in warnings
    assert not [said for said in working.of(job.lease) if isinstance(said, CheckpointSaved)]
    working.worker.take(Cancel(lease=job.lease))
    await working.until(Cancelled, job.lease)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "no room"),
        OSError(errno.EDQUOT, "no room"),
        StoreUnavailable("no room", reason="DISK_FULL"),
    ],
)
async def test_a_full_scratch_disk_suspends_too(
    working: Working, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr("trainer_svc.engine.member.build_package", fail)
    job = await working.start("scratch")
    suspended = await working.until(Suspended, job.lease)
    assert suspended.error is not None
    assert suspended.error.reason == "DISK_FULL"
    assert not working.left_behind


@pytest.mark.parametrize(
    ("error", "reason", "retryable"),
    [
        (OSError(errno.EIO, "broken"), "INTERNAL", False),
        (KeyError("surprise"), "INTERNAL", False),
        (StoreUnavailable("down"), "STORE_UNAVAILABLE", True),
    ],
)
async def test_a_failure_ends_its_job_and_no_other(
    working: Working,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    reason: str,
    retryable: bool,
) -> None:
    def fail(*_: Any) -> None:
        raise error

    other = await working.start("bystander", hyperparameters=LONG)
    await working.until(StepProgress, other.lease)
    monkeypatch.setattr("trainer_svc.engine.member.build_package", fail)
    with structlog.testing.capture_logs() as logged:
        job = await working.start("failing")
        failed = await working.until(Failed, job.lease)
    assert [entry["log_level"] for entry in logged if entry["event"] == "job failed"] == [
        "error" if reason == "INTERNAL" else "warning"
    ]
    assert (failed.error.reason, failed.retryable) == (reason, retryable)
    assert ("correlation_id" in failed.error.metadata) is (reason == "INTERNAL")
    assert "surprise" not in failed.error.message
    assert not await working.attached(job.lease.job)
    assert len(working.left_behind) == 1
    steps = len(working.of(other.lease))
    while len(working.of(other.lease)) < steps + 3:
        await working.news()
    working.worker.take(Cancel(lease=other.lease))
    await working.until(Cancelled, other.lease)


async def test_a_tokenising_process_that_is_killed_costs_its_lease_alone(
    working: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = await working.start("bystander", hyperparameters=LONG)
    await working.until(StepProgress, other.lease)
    job = await tokenising_apart(working, monkeypatch)
    (process,) = tokenising_processes()
    process.kill()
    failed = await working.until(Failed, job.lease)
    assert (failed.error.reason, failed.retryable) == ("TOKENISING_LOST", True)
    assert failed.error.message.endswith("ended with status -9")
    again = later(job)
    working.worker.take(Start(assignment=again))
    await working.until(Trained, again.lease)
    for lease in (again.lease, other.lease):
        working.worker.take(Cancel(lease=lease))
        await working.until(Cancelled, lease)
    assert not working.left_behind


async def test_an_upload_that_nobody_waits_for_is_dropped(working: Working) -> None:
    job = await working.start("early", hyperparameters=LONG)
    await working.until(StepProgress, job.lease)
    working.worker.take(Upload(lease=job.lease, version=VERSION))
    working.worker.take(Cancel(lease=job.lease))
    await working.until(Cancelled, job.lease)
    assert not any(isinstance(report, Uploaded | Failed) for report in working.of(job.lease))


async def test_a_checkpoint_that_fits_no_adapter_is_left_for_an_older_one(
    working: Working,
) -> None:
    job = await working.start("unfit", hyperparameters=LONG)
    await working.until(StepProgress, job.lease)
    working.worker.take(Suspend(lease=job.lease))
    await working.until(Suspended, job.lease)
    other = later(job)
    narrow = other.lora.model_copy(update={"rank": 4})
    working.worker.take(Start(assignment=other.model_copy(update={"lora": narrow})))
    resumed = await working.until(Resumed, other.lease)
    assert resumed.resumed_from_step == 0
    working.worker.take(Cancel(lease=other.lease))
    await working.until(Cancelled, other.lease)
