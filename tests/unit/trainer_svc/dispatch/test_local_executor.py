"""Worker processes that cannot be started: a lost worker, of which nothing stays behind."""

from __future__ import annotations

import asyncio
import errno
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from tailorbird.errors import FailedPrecondition
from tests.unit.trainer_svc.fakes import READY
from trainer_svc.dispatch.executor import WorkerLost
from trainer_svc.dispatch.local_executor import LocalExecutor
from trainer_svc.jobs.model import JobError
from trainer_svc.protocol import Cancelled, LeaseKey, Report, Unusable, WorkerSettings, encode

BASE = "sha256:base"


def executor(folder: Path, silence: float | None = None, **limits: Any) -> LocalExecutor:
    settings = WorkerSettings(
        object_store=f"file://{folder}",
        base_model_path=str(folder / "none"),
        base_model_name="base",
        base_model_digest="",
        chat_template_digest="",
        device="cpu",
        threads=1,
        scratch_dir=str(folder / "scratch"),
        cache_dir=str(folder / "cache" / "datasets"),
        cache_bytes=2**30,
        silence_seconds=silence,
        progress_interval=1.0,
    )
    return LocalExecutor({BASE: settings}, **limits)


class Watch:
    """The sockets and the processes that were made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sockets: list[socket.socket] = []
        self.processes: list[asyncio.subprocess.Process] = []
        pair, start = socket.socketpair, asyncio.create_subprocess_exec

        def make_pair() -> Any:
            made = pair()
            self.sockets += made
            return made

        async def make_process(*args: Any, **kwargs: Any) -> Any:
            self.processes.append(await start(*args, **kwargs))
            return self.processes[-1]

        monkeypatch.setattr("trainer_svc.dispatch.child.socket.socketpair", make_pair)
        monkeypatch.setattr(asyncio, "create_subprocess_exec", make_process)


async def test_a_full_disk_is_a_lost_worker(tmp_path: Path) -> None:
    (tmp_path / "scratch").write_text("in the way")
    with pytest.raises(WorkerLost, match="can be started"):
        await executor(tmp_path).start(0, BASE)


@pytest.mark.parametrize("call", ["create_subprocess_exec", "open_connection"])
@pytest.mark.parametrize("error", [OSError(errno.ENOMEM, "no memory"), asyncio.CancelledError()])
async def test_a_start_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException
) -> None:
    watch = Watch(monkeypatch)

    async def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(asyncio, call, fail)
    lost = WorkerLost if isinstance(error, OSError) else asyncio.CancelledError
    with pytest.raises(lost):
        await executor(tmp_path).start(0, BASE)
    assert [s.fileno() for s in watch.sockets] == [-1, -1]
    assert len(watch.processes) == (call == "open_connection")
    assert all(process.returncode is not None for process in watch.processes)


async def test_no_socket_is_a_lost_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr("trainer_svc.dispatch.child.socket.socketpair", fail)
    with pytest.raises(WorkerLost, match="too many open files"):
        await executor(tmp_path).start(0, BASE)


async def test_what_cannot_be_removed_is_in_no_workers_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scratch" / "worker-0" / "left").mkdir(parents=True)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    watch = Watch(monkeypatch)

    async def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, "the test ends here")

    monkeypatch.setattr(asyncio, "open_connection", fail)
    with pytest.raises(WorkerLost, match="the test ends here"):
        await executor(tmp_path).start(0, BASE)
    assert watch.processes


class Said:
    """A process that says one thing."""

    pid = 1

    def __init__(self, report: Report) -> None:
        self.report = report
        self.closed = False

    async def write(self, _: bytes) -> None:
        pass

    async def read(self) -> bytes:
        return encode(self.report)

    async def close(self, seconds: float) -> None:
        self.closed = True


def spawning(monkeypatch: pytest.MonkeyPatch, said: Said) -> dict[str, Any]:
    """Have it started, and return how."""
    asked: dict[str, Any] = {}

    async def spawn(module: str, **how: Any) -> Said:
        asked.update(how, module=module)
        return said

    monkeypatch.setattr("trainer_svc.dispatch.local_executor.spawn", spawn)
    return asked


async def test_what_a_worker_chose_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = executor(tmp_path)
    kept = [dict(workers.ready)]
    newer = READY.model_copy(update={"attention": "varlen"})
    for said in (READY, newer):
        spawning(monkeypatch, Said(said))
        await workers.start(0, BASE)
        kept.append(dict(workers.ready))
    assert kept == [{}, {BASE: READY}, {BASE: newer}]


class Hanging(Said):
    """A process that never says anything."""

    def __init__(self) -> None:
        super().__init__(READY)

    async def read(self) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_load_that_hangs_is_a_lost_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer_svc.dispatch.local_executor._LOAD_SECONDS", 0.01)
    said = Hanging()
    spawning(monkeypatch, said)
    async with asyncio.timeout(20):
        with pytest.raises(WorkerLost, match="not ready within"):
            await executor(tmp_path).start(0, BASE)
    assert said.closed


async def test_a_worker_that_begins_with_something_else_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers, said = executor(tmp_path), Said(Cancelled(lease=LeaseKey(job="one", epoch=1)))
    spawning(monkeypatch, said)
    with pytest.raises(WorkerLost, match="began with cancelled"):
        await workers.start(0, BASE)
    assert said.closed
    assert workers.ready == {}


async def test_a_base_that_no_worker_can_hold_is_told_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = JobError(reason="BASE_UNSUPPORTED", message="no such architecture")
    workers, said = executor(tmp_path), Said(Unusable(error=error))
    spawning(monkeypatch, said)
    with pytest.raises(FailedPrecondition, match="no such architecture") as caught:
        await workers.start(0, BASE)
    assert caught.value.reason == "BASE_UNSUPPORTED"
    assert said.closed


@pytest.mark.parametrize(
    ("gpus", "seen"),
    [((), [{}] * 3), (("0",), [{}] * 3), (("0", "GPU-7"), ["0", "GPU-7", "0"])],
    ids=["none", "one", "two"],
)
async def test_each_worker_has_a_gpu_of_its_own_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: tuple[str, ...], seen: list[Any]
) -> None:
    asked = spawning(monkeypatch, Said(READY))
    workers, found = executor(tmp_path, gpus=gpus), []
    for index in range(3):
        await workers.start(index, BASE)
        found.append(asked["environment"])
    assert found == [each if each == {} else {"CUDA_VISIBLE_DEVICES": each} for each in seen]


async def test_a_worker_may_be_silent_as_long_as_it_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = spawning(monkeypatch, Said(READY))
    await executor(tmp_path, silence=7.0).start(0, BASE)
    assert asked["silence"] == 7.0


async def test_a_worker_is_the_engine_with_the_memory_that_it_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = spawning(monkeypatch, Said(READY))
    await executor(tmp_path, memory=2**30).start(0, BASE)
    assert (asked["module"], asked["memory"]) == ("trainer_svc.engine", 2**30)
