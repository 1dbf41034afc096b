"""What the process that checks data says is what the caller hears, of the class that it was."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
import uvloop

from tailorbird.errors import (
    AdapterRefused,
    DataCorrupt,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    StoreUnavailable,
    TailorbirdError,
    Unavailable,
)
from tests.unit.trainer_svc.fakes import PREFLIGHT
from tests.unit.trainer_svc.values import make_job
from trainer_svc.dispatch import preflight
from trainer_svc.dispatch.assignment import Assignments
from trainer_svc.dispatch.preflight import Preflights, _result
from trainer_svc.engine.preflight.__main__ import _refused
from trainer_svc.jobs.model import Job, LoraSpec
from trainer_svc.protocol import Assignment, Checked, DatasetRef, LeaseKey, WorkerSettings, encode


@pytest.mark.parametrize(
    "error",
    [
        FailedPrecondition("too many", reason="TOO_MANY_TOO_LONG", count=3),
        InvalidArgument("job.spec.x", "is not: so", reason="METRIC_NOT_APPLICABLE", n=1),
        NotFound("tenants/acme/datasets/d", reason="DATASET_NOT_FOUND"),
        DataCorrupt("other bytes", reason="DATASET_CORRUPT", dataset="d"),
        StoreUnavailable("down"),
        Unavailable("full", reason="DISK_FULL"),
    ],
)
def test_an_error_is_the_same_on_this_side(error: TailorbirdError) -> None:
    with pytest.raises(type(error)) as caught:
        _result(encode(_refused(error)))
    found = caught.value
    assert type(found) is type(error)
    assert (found.reason, found.message, found.metadata) == (
        error.reason,
        error.message,
        error.metadata,
    )
    if isinstance(error, InvalidArgument):
        assert isinstance(found, InvalidArgument)
        assert found.violations == error.violations


def test_an_error_that_no_check_has_is_no_fault_of_the_caller() -> None:
    with pytest.raises(Unavailable, match="strange"):
        _result(encode(_refused(AdapterRefused("strange"))))


@pytest.mark.parametrize("line", [b"{", b"{}\n", b'{"preflight": 3}\n'])
def test_what_is_no_answer_is_told(line: bytes) -> None:
    with pytest.raises(Unavailable, match="said what is no answer") as caught:
        _result(line)
    assert caught.value.reason == "TOKENISING_LOST"


def test_an_answer_is_read() -> None:
    assert _result(encode(Checked(preflight=PREFLIGHT))) == PREFLIGHT


BASE = "sha256:1"
HANGING = f"{__package__}.hanging"
ENDLESS = f"{__package__}.endless"


class Unleased:
    async def unleased(self, job: Job) -> Assignment:
        return Assignment(
            lease=LeaseKey(job=str(job.name), epoch=0),
            base_model_digest=BASE,
            adapter="tenants/acme/adapters/a",
            training=DatasetRef(name="d", key="d", sha256="", format="chat"),
            validation=None,
            validation_fraction=None,
            lora=LoraSpec(),
            hyperparameters=job.spec.hyperparameters,
            spec_sha256="",
            parent_version="",
        )


def checks(folder: Path) -> Preflights:
    settings: dict[str, Any] = {
        "object_store": "memory:///",
        "base_model_path": "",
        "base_model_name": "",
        "base_model_digest": BASE,
        "chat_template_digest": "",
        "device": "cpu",
        "threads": 1,
        "scratch_dir": str(folder),
        "cache_dir": str(folder / "cache"),
        "cache_bytes": 1,
        "progress_interval": 1,
    }
    return Preflights(cast("Assignments", Unleased()), {BASE: WorkerSettings(**settings)})


def hanging() -> list[psutil.Process]:
    return [each for each in psutil.Process().children() if HANGING in each.cmdline()]


def left(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_one_that_takes_too_long_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_MODULE", HANGING)
    monkeypatch.setattr(preflight, "_SECONDS", 0.5)
    with pytest.raises(FailedPrecondition, match=r"within 0\.5 s") as caught:
        await checks(tmp_path).check(make_job("one"))
    assert caught.value.reason == "CHECK_TOO_LONG"
    assert not hanging()
    assert not left(tmp_path)


async def test_a_call_that_ends_ends_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_MODULE", HANGING)
    task = asyncio.create_task(checks(tmp_path).check(make_job("one")))
    while not await asyncio.to_thread(hanging):
        assert not task.done()
    assert [name.startswith("preflight-") for name in left(tmp_path)] == [True]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not hanging()
    assert not left(tmp_path)


async def test_a_tenant_has_one_check_at_a_time_and_four_that_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_MODULE", HANGING)
    one = checks(tmp_path)
    tasks = [asyncio.create_task(one.check(make_job(f"job-{number}"))) for number in range(5)]
    while not await asyncio.to_thread(hanging):
        assert not any(task.done() for task in tasks)
    with pytest.raises(ResourceExhausted, match="4 of tenants/acme wait already") as caught:
        await one.check(make_job("a-sixth"))
    assert caught.value.reason == "TOO_MANY_CHECKS"
    assert caught.value.metadata["limit"] == "4"
    assert len(left(tmp_path)) == 1
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert not left(tmp_path)


async def test_one_that_cannot_be_started_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    with pytest.raises(Unavailable, match="cannot be started: No such file") as caught:
        await checks(tmp_path).check(make_job("one"))
    assert caught.value.reason == "TOKENISING_LOST"


@pytest.mark.parametrize(
    ("number", "reason"), [(errno.ENOSPC, "DISK_FULL"), (errno.EACCES, "TOKENISING_LOST")]
)
async def test_one_whose_folder_cannot_be_made_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    one = checks(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(Unavailable) as caught:
        await one.check(make_job("one"))
    assert caught.value.reason == reason


async def test_no_file_left_for_its_socket_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socketpair", refuse)
    with pytest.raises(Unavailable, match="cannot be started: Too many open files") as caught:
        await checks(tmp_path).check(make_job("one"))
    assert caught.value.reason == "TOKENISING_LOST"
    assert not left(tmp_path)


async def test_an_answer_without_end_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_MODULE", ENDLESS)
    with pytest.raises(Unavailable, match="said what is no answer") as caught:
        await checks(tmp_path).check(make_job("one"))
    assert caught.value.reason == "TOKENISING_LOST"
    assert not left(tmp_path)


def test_one_that_ended_before_it_was_asked_is_told_on_the_services_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = asyncio.open_connection

    async def closed_by_now(
        **asked: Any,
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await connect(**asked)
        writer.close()
        await writer.wait_closed()
        return reader, writer

    monkeypatch.setattr(preflight, "_MODULE", f"{__package__}.no_such_module")
    monkeypatch.setattr(asyncio, "open_connection", closed_by_now)
    with pytest.raises(Unavailable, match="ended with status 1") as caught:
        uvloop.run(checks(tmp_path).check(make_job("one")))
    assert caught.value.reason == "TOKENISING_LOST"
    assert not left(tmp_path)


def test_what_a_lost_service_left_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "preflight-1" / "deep").mkdir(parents=True)
    (tmp_path / "worker-0").mkdir()
    checks(tmp_path)
    assert left(tmp_path) == ["worker-0"]
