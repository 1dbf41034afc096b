"""What is told of a job that fails, and what is left of it in the worker."""

from __future__ import annotations

import asyncio
import errno
import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import structlog
import torch

from tailorbird.errors import FailedPrecondition
from tests.unit.trainer_svc.engine.tiny import chats, dataset_ref, jsonl
from tests.unit.trainer_svc.engine.working import DATA, LONG, Working
from trainer_svc.engine.failures import DISK_FULL, ran_out_of_disk
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.engine.step.run import Run
from trainer_svc.jobs.events import Prepared, StepProgress
from trainer_svc.jobs.model import DataPolicy, Hyperparameters, TooLong
from trainer_svc.protocol import Cancel, Cancelled, Failed, LeaseKey, Start, Suspend, Suspended

NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. Process 7 has it"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
]
SHORT = Hyperparameters(epochs=1, batch_tokens=512)
WILD = Hyperparameters(epochs=50, batch_tokens=512, learning_rate=1e30)


@pytest_asyncio.fixture
async def working(bank: AdapterBank, tmp_path: Path) -> AsyncIterator[Working]:
    working = Working(bank, tmp_path)
    yield working
    await asyncio.to_thread(working.steps.close)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[weakref.ref[Run]]]:
    """Every run that was made; nothing is collected that is in a cycle."""
    made: list[weakref.ref[Run]] = []

    def watched(*arguments: Any, **options: Any) -> Run:
        run = Run(*arguments, **options)
        made.append(weakref.ref(run))
        return run

    monkeypatch.setattr("trainer_svc.engine.course.Run", watched)
    gc.collect()
    gc.disable()
    # A renderer that reads the locals of frames would keep them.
    silent = structlog.wrap_logger(structlog.testing.ReturnLogger(), processors=[lambda *_: ""])
    monkeypatch.setattr("trainer_svc.engine.failures.log", silent)
    yield made
    gc.enable()


async def gone(working: Working) -> None:
    """Wait until no lease is left, and the step thread is past what it did for the last."""
    async with asyncio.timeout(30):
        await asyncio.gather(*working.worker._tasks.values())
        for _ in range(2):
            await asyncio.wrap_future(working.steps.call(lambda: None))


@pytest.mark.parametrize("where", ["step", "restore", "judge", "package"])
async def test_nothing_of_a_failed_job_stays_in_memory(
    working: Working,
    runs: list[weakref.ref[Run]],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    def fail(*arguments: Any) -> None:
        raise KeyError(len(arguments))

    if where == "restore":
        monkeypatch.setattr("trainer_svc.engine.course.Checkpoints.restore", fail)
    elif where == "judge":
        monkeypatch.setattr("trainer_svc.engine.result.judging.make_probes", fail)
    elif where == "package":
        monkeypatch.setattr("trainer_svc.engine.member.build_package", fail)
    for number in range(3):
        asked = WILD if where == "step" else SHORT
        job = await working.start(f"failing-{number}", hyperparameters=asked)
        failed = await working.until(Failed, job.lease)
        assert failed.error.reason == ("NON_FINITE" if where == "step" else "INTERNAL")
        working.heard.clear()
    await gone(working)
    assert len(runs) == 3
    assert [run for run in runs if run() is not None] == []


async def test_weights_that_serving_would_refuse_end_the_job_before_it_is_published(
    working: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    def grown(run: Run) -> None:
        for name, parameter in run.adapter.parameters.items():
            if ".lora_B." in name:
                parameter.data.fill_(1e5)

    monkeypatch.setattr(Run, "hold_best", grown)
    monkeypatch.setattr("trainer_svc.engine.member.build_package", pytest.fail)
    job = await working.start("large", hyperparameters=SHORT)
    failed = await working.until(Failed, job.lease)
    assert (failed.error.reason, failed.retryable) == ("NOT_FINITE", False)
    assert "serving would refuse the adapter" in failed.error.message


@pytest.mark.parametrize(("command", "ending"), [(Cancel, Cancelled), (Suspend, Suspended)])
async def test_nothing_of_a_job_that_was_ended_stays_in_memory(
    working: Working, runs: list[weakref.ref[Run]], command: Any, ending: Any
) -> None:
    job = await working.start("ended", hyperparameters=LONG)
    await working.until(StepProgress, job.lease)
    working.worker.take(command(lease=job.lease))
    await working.until(ending, job.lease)
    await gone(working)
    assert [run() for run in runs] == [None]


@pytest.mark.parametrize("no_memory", NO_MEMORY)
@pytest.mark.parametrize(
    "where", ["course.Run", "step.run.Run.snapshot", "step.bank.AdapterBank.logprobs"]
)
async def test_a_job_that_is_alone_and_has_no_memory_fails(
    working: Working, monkeypatch: pytest.MonkeyPatch, where: str, no_memory: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise no_memory

    monkeypatch.setattr(f"trainer_svc.engine.{where}", fail)
    job = await working.start("large")
    failed = await working.until(Failed, job.lease)
    assert (failed.error.reason, failed.retryable) == ("OUT_OF_MEMORY", False)
    asked = "20.00 MiB" if "CUDA" in str(no_memory) else "9 bytes"
    assert failed.error.metadata == {"asked": asked}
    assert f"no room for {asked} more" in failed.error.message
    assert "Process" not in failed.error.message


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("came_first", [False, True])
async def test_what_others_may_have_taken_is_not_the_jobs_own_fault(
    working: Working, monkeypatch: pytest.MonkeyPatch, shared: bool, came_first: bool
) -> None:
    """A record that does not fit in a pass of its own, with and without another job."""
    forward = working.bank.forward

    def full(shares: Any) -> Any:
        if "tenants/acme/jobs/large" in shares and (holds.is_set() or not shared):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(shares)

    holds = asyncio.Event()
    monkeypatch.setattr(working.bank, "forward", full)

    async def beside() -> Any:
        other = await working.start("beside", hyperparameters=LONG)
        await working.until(StepProgress, other.lease)
        return other

    other = await beside() if shared and not came_first else None
    job = await working.start("large", hyperparameters=LONG)
    if shared:
        await working.until(StepProgress, job.lease)
        other = other or await beside()
        holds.set()
    failed = await working.until(Failed, job.lease)
    assert (failed.error.reason, failed.retryable) == ("OUT_OF_MEMORY", shared)
    assert ("the device was shared" in failed.error.message) is shared
    assert failed.error.metadata["limit"] == "8192"
    if other is not None:
        working.worker.take(Cancel(lease=other.lease))
        await working.until(Cancelled, other.lease)


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (DataPolicy(max_too_long_fraction=0.1), "TOO_MANY_TOO_LONG"),
        (DataPolicy(too_long=TooLong.TRUNCATE, max_too_long_fraction=0.1), "TOO_MANY_TOO_LONG"),
        (DataPolicy(too_long=TooLong.ERROR), "RECORDS_TOO_LONG"),
    ],
)
@pytest.mark.parametrize("validating", [False, True])
async def test_data_that_is_too_long_fails_before_it_trains(
    working: Working, policy: DataPolicy, reason: str, validating: bool
) -> None:
    long = jsonl([*chats(4), {"messages": [*chats(1)[0]["messages"]] * 20}])
    job = await working.job("long", DATA if validating else long, validation_fraction=None)
    changes: dict[str, Any] = {"data": policy}
    if validating:
        changes["validation"] = dataset_ref(long, "held")
        await working.store.seed(changes["validation"].key, long)
    job = job.model_copy(update=changes)
    working.worker.take(Start(assignment=job))
    failed = await working.until(Failed, job.lease)
    assert (failed.error.reason, failed.retryable) == (reason, False)
    assert "1 of 5 records" in failed.error.message
    assert "(line 5)" in failed.error.message
    assert [type(said).__name__ for said in working.of(job.lease)] == ["Failed"]
    # What is too long may be allowed.
    other = job.model_copy(
        update={
            "lease": LeaseKey(job="tenants/acme/jobs/allowed", epoch=1),
            "data": policy.model_copy(
                update={"too_long": TooLong.TRUNCATE, "max_too_long_fraction": 0.2}
            ),
        }
    )
    working.worker.take(Start(assignment=other))
    prepared = await working.until(Prepared, other.lease)
    report = prepared.validation if validating else prepared.training
    assert report is not None
    assert (report.kept, report.truncated, report.truncated_lines) == (5, 1, (5,))
    working.worker.take(Cancel(lease=other.lease))
    await working.until(Cancelled, other.lease)


def test_a_full_disk_is_told_from_other_errors_of_a_disk() -> None:
    assert ran_out_of_disk(OSError(errno.ENOSPC, "no space left"))
    assert ran_out_of_disk(FailedPrecondition("full", reason=DISK_FULL))
    assert not ran_out_of_disk(OSError(errno.EIO, "broken"))
    assert not ran_out_of_disk(ValueError("no space left"))
