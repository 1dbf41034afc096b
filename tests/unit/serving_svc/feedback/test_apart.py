"""The process that looks for personal data: lost, late, stopped and left behind."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest

from serving_svc.feedback import apart
from serving_svc.feedback.redaction import Redactor
from tailorbird.errors import FailedPrecondition, InvalidArgument, Unavailable
from tailorbird.feedback import Answer, FeedbackRecord
from tailorbird.personal_data.modes import Mode
from tests.unit.serving_svc.feedback.held import EndlessScanner, Holder, Silent, held, never
from tests.unit.tailorbird.feedback_values import a_record

MODULE = "serving_svc.feedback.redacting"


def processes(parent: int | None = None) -> list[psutil.Process]:
    return [each for each in psutil.Process(parent).children() if MODULE in each.cmdline()]


def of(redactor: Redactor, tenant: str) -> asyncio.Task[FeedbackRecord]:
    record = a_record(answer=Answer(content=f"from {tenant}"))
    return asyncio.create_task(redactor.redacted(record, tenant))


async def until_read(holder: Holder) -> psutil.Process:
    """Wait until a process reads, and return it."""
    assert await asyncio.to_thread(holder.began.wait, 30)
    holder.began.clear()
    return holder.process


def test_it_has_little_and_gives_way(redactor: Redactor) -> None:
    redactor.start()
    (process,) = processes()
    heavy = ("/torch/", "/vllm/", "/grpc/", "/transformers/")
    assert not [
        each.path for each in process.memory_maps() if any(one in each.path for one in heavy)
    ]
    assert process.nice() == min(os.nice(0) + 5, 19)
    assert Path(f"/proc/{process.pid}/oom_score_adj").read_text() == "1000\n"


async def test_one_that_was_killed_while_idle_is_started_again(tmp_path: Path) -> None:
    with held(tmp_path) as (redactor, holder):
        holder.go_on.set()
        await of(redactor, "acme")
        first = await until_read(holder)
        first.kill()
        assert (await of(redactor, "globex")).answer.content == "from globex"
        assert await until_read(holder) != first


async def test_a_record_whose_process_is_killed_is_tried_once_more(tmp_path: Path) -> None:
    with held(tmp_path) as (redactor, holder):
        record = of(redactor, "acme")
        first = await until_read(holder)
        first.kill()
        second = await until_read(holder)
        assert second != first
        waits = of(redactor, "globex")
        second.kill()
        with pytest.raises(Unavailable, match=r"looks for personal data ended with status -9") as e:
            await record
        assert e.value.reason == "REDACTION_LOST"
        holder.go_on.set()
        assert (await waits).answer.content == "from globex"


async def test_a_process_lost_at_another_s_piece_is_no_try_of_a_record(tmp_path: Path) -> None:
    with held(tmp_path, EndlessScanner) as (redactor, holder):
        endless = of(redactor, "acme")
        for other in ("globex", "initech"):
            lost = of(redactor, other)
            for _ in range(2):
                (await until_read(holder)).kill()
            with pytest.raises(Unavailable):
                await lost
        holder.go_on.set()
        await asyncio.gather(of(redactor, "globex"), of(redactor, "globex"))
        assert not endless.done()
        endless.cancel()
        await of(redactor, "globex")
        # It was begun again.
        assert "given up" in holder.read


async def test_what_cannot_be_started_is_worth_another_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held(tmp_path) as (redactor, holder):
        holder.go_on.set()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", str(tmp_path / "python"))
            with pytest.raises(Unavailable, match="cannot be started: No such file") as caught:
                await of(redactor, "acme")
        assert caught.value.reason == "REDACTION_LOST"
        assert (await of(redactor, "acme")).answer.content == "from acme"


async def test_without_a_socket_it_cannot_be_started(
    silent: Redactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(socket, "socketpair", none_left)
        with pytest.raises(Unavailable, match="cannot be started: Too many open files") as caught:
            await silent.redacted(a_record(), "acme")
    assert caught.value.reason == "REDACTION_LOST"
    await silent.redacted(a_record(), "acme")


async def test_an_answer_that_was_not_read_is_nobody_else_s(
    silent: Redactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(_: Connection) -> None:
        raise MemoryError

    await silent.redacted(a_record(), "acme")
    with monkeypatch.context() as patch:
        patch.setattr(Connection, "recv", out_of_memory)
        with pytest.raises(MemoryError):
            await silent.redacted(a_record(answer=Answer(content="of acme")), "acme")
    other = await silent.redacted(a_record(answer=Answer(content="of globex")), "globex")
    assert other.answer.content == "of globex"


@pytest.mark.parametrize("stopped", [False, True])
async def test_one_that_does_not_end_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    with held(tmp_path) as (redactor, holder):
        holder.go_on.set()
        await of(redactor, "acme")
        first = await until_read(holder)
        holder.go_on.clear()
        if stopped:
            first.suspend()
        with monkeypatch.context() as patch:
            patch.setattr(apart, "_SECONDS", 0.05)
            with pytest.raises(FailedPrecondition, match=r"did not end within 0\.05 s") as caught:
                # Longer than what a socket takes of it.
                await redactor.redacted(
                    a_record(answer=Answer(content="from acme" + "." * 500_000)), "acme"
                )
        assert (caught.value.reason, caught.value.metadata) == (
            "REDACTION_TIMED_OUT",
            {"seconds": "0.05"},
        )
        assert not first.is_running()
        holder.go_on.set()
        assert (await of(redactor, "globex")).answer.content == "from globex"


async def test_a_start_that_does_not_end_is_no_record_s_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held(tmp_path) as (redactor, holder):
        holder.go_on.set()
        before = set(processes())
        with monkeypatch.context() as patch:
            # Sooner than an interpreter starts.
            patch.setattr(apart, "_SECONDS", 0.001)
            with pytest.raises(Unavailable, match=r"cannot be started: .* did not end") as caught:
                await of(redactor, "acme")
        assert caught.value.reason == "REDACTION_LOST"
        assert set(processes()) == before
        assert (await of(redactor, "acme")).answer.content == "from acme"


async def test_close_leaves_no_process(tmp_path: Path) -> None:
    before = set(processes())
    with held(tmp_path) as (redactor, holder):
        record = of(redactor, "acme")
        process = await until_read(holder)
        redactor.close()
        assert not process.is_running()
        with pytest.raises(Unavailable) as caught:
            await record
        assert caught.value.reason == "SHUTTING_DOWN"
        with pytest.raises(Unavailable) as caught:
            await of(redactor, "acme")
        assert caught.value.reason == "SHUTTING_DOWN"
        assert set(processes()) == before


async def test_close_at_a_record_s_last_try_is_told_as_such(tmp_path: Path) -> None:
    with held(tmp_path) as (redactor, holder):
        record = of(redactor, "acme")
        (await until_read(holder)).kill()
        await until_read(holder)
        redactor.close()
        with pytest.raises(Unavailable) as caught:
            await record
        assert caught.value.reason == "SHUTTING_DOWN"


async def test_close_ends_a_process_that_starts(tmp_path: Path) -> None:
    holder = Holder(tmp_path)
    redactor = Redactor(partial(never, holder.address), Mode.REDACT)  # type: ignore[arg-type]
    starting = asyncio.create_task(asyncio.to_thread(redactor.start))
    process = await until_read(holder)
    redactor.close()
    assert not process.is_running()
    with pytest.raises(Unavailable) as caught:
        await starting
    assert caught.value.reason == "SHUTTING_DOWN"
    with pytest.raises(Unavailable) as caught:
        redactor.start()
    assert caught.value.reason == "SHUTTING_DOWN"
    holder.close()


def test_what_has_been_answered_is_given_up_no_more(redactor: Redactor) -> None:
    redactor.start()
    limits = [each for each in threading.enumerate() if isinstance(each, threading.Timer)]
    for limit in limits:
        limit.join(30)
    assert not any(limit.is_alive() for limit in limits)


def test_a_scanner_that_cannot_be_made_is_told_at_the_start(tmp_path: Path) -> None:
    before = processes()
    redactor = Redactor(partial(Silent, tmp_path / "model"), Mode.REDACT)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="spacy_model: is gone") as caught:
        redactor.start()
    assert caught.value.field == "spacy_model"
    assert processes() == before
    redactor.close()


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[Redactor]:
    (tmp_path / "model").touch()
    redactor = Redactor(partial(Silent, tmp_path / "model"), Mode.REDACT)  # type: ignore[arg-type]
    yield redactor
    redactor.close()


async def test_a_scanner_that_cannot_be_made_again_is_no_caller_s_fault(
    silent: Redactor, tmp_path: Path
) -> None:
    before = set(processes())
    await silent.redacted(a_record(), "acme")
    (process,) = set(processes()) - before
    process.kill()
    (tmp_path / "model").unlink()
    with pytest.raises(Unavailable, match="cannot be started: spacy_model: is gone") as caught:
        await silent.redacted(a_record(), "acme")
    assert caught.value.reason == "REDACTION_LOST"
    assert set(processes()) == before


async def test_an_error_that_nobody_foresaw_tells_no_text(silent: Redactor) -> None:
    before = set(processes())
    await silent.redacted(a_record(), "acme")
    (process,) = set(processes()) - before
    with pytest.raises(RuntimeError, match=r"^KeyError in search, .*held.py:\d+$"):
        await of(silent, "acme")
    await silent.redacted(a_record(), "acme")
    assert process.is_running()


SERVING = """
import asyncio, signal, sys
from functools import partial
from serving_svc.feedback.redaction import Redactor
from tailorbird.feedback import Answer
from tailorbird.personal_data.modes import Mode
from tests.unit.serving_svc.feedback.held import HeldScanner
from tests.unit.tailorbird.feedback_values import a_record

signal.signal(signal.SIGINT, lambda *_: print("interrupted", flush=True))
redactor = Redactor(partial(HeldScanner, sys.argv[1]), Mode.REDACT)
record = a_record(answer=Answer(content="from acme"))
print(asyncio.run(redactor.redacted(record, "acme")).answer.content, flush=True)
sys.stdin.read()
redactor.close()
"""


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Holder]]:
    """A process whose redactor is held at its first record, and then waits."""
    holder = Holder(tmp_path)
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", SERVING, holder.address],
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process, holder
        finally:
            process.kill()
            holder.close()


def test_it_hears_no_ctrl_c(serving: tuple[subprocess.Popen[str], Holder]) -> None:
    parent, holder = serving
    assert holder.began.wait(30)
    os.killpg(parent.pid, signal.SIGINT)
    holder.go_on.set()
    said, errors = parent.communicate(timeout=30)
    assert sorted(said.splitlines()) == ["from acme", "interrupted"]
    assert (parent.returncode, errors) == (0, "")
    assert not holder.process.is_running()


@pytest.mark.parametrize("idle", [False, True])
def test_it_dies_with_who_started_it(
    serving: tuple[subprocess.Popen[str], Holder], idle: bool
) -> None:
    parent, holder = serving
    assert holder.began.wait(30)
    if idle:
        holder.go_on.set()
        assert parent.stdout
        assert parent.stdout.readline() == "from acme\n"
    parent.kill()
    holder.process.wait(30)
    _, errors = parent.communicate(timeout=30)
    assert errors == ""
