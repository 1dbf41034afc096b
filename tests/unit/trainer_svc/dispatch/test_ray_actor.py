"""The actor without Ray: its real worker process is told and heard by calls from many threads."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tailorbird import __version__
from tailorbird.base_model import load_base_model
from tests.acceptance.trainer_process import BASE
from trainer_svc.dispatch.ray_actor import EngineActor
from trainer_svc.dispatch.ray_order import RayCluster, RayOrder
from trainer_svc.protocol import REPORT, Lost, Ready, WorkerSettings, encode

ECHO = "tests.unit.trainer_svc.dispatch.dying"


def order(folder: Path, **changes: object) -> RayOrder:
    base = load_base_model(str(BASE), folder / "service")
    cluster = RayCluster(
        address="127.0.0.1:1",
        cpus=1,
        gpus=0,
        memory=None,
        resources={},
        data_dir=str(folder / "machine"),
        room_seconds=30,
        # Here it would end the tests' own process.
        silence_seconds=86400,
    )
    settings = WorkerSettings(
        object_store=(folder / "store").as_uri(),
        base_model_path="/of/the/service",
        base_model_name=base.name,
        base_model_digest=base.digest,
        chat_template_digest=base.chat_template_digest,
        device="cpu",
        threads=1,
        scratch_dir="/of/the/service",
        cache_dir="/of/the/service",
        cache_bytes=2**30,
        progress_interval=1.0,
    )
    asked = RayOrder(cluster=cluster, base_model=str(BASE), general_data="", settings=settings)
    return asked.model_copy(update=changes)


@pytest.fixture
def actor() -> Iterator[EngineActor]:
    policy = asyncio.get_event_loop_policy()
    started = EngineActor()
    asyncio.set_event_loop_policy(policy)
    yield started
    started.end()
    (thread,) = (each for each in threading.enumerate() if each.name == "engine")
    started._loop.call_soon_threadsafe(started._loop.stop)
    thread.join()
    started._loop.close()


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch, actor: EngineActor, tmp_path: Path) -> EngineActor:
    """An actor whose process says again what it hears; the settings have been heard."""
    monkeypatch.setattr("trainer_svc.dispatch.ray_actor._ENGINE", ECHO)
    actor.begin(encode(order(tmp_path)))
    return actor


def heard(actor: EngineActor, count: int) -> list[bytes]:
    lines: list[bytes] = []
    while len(lines) < count:
        found, _, lost = actor.receive()
        assert not lost
        lines += found
    return lines


def the_end(actor: EngineActor) -> tuple[list[bytes], list[str], Lost]:
    lines, printed, lost = actor.receive()
    while not lost:
        more, text, lost = actor.receive()
        lines, printed = lines + more, printed + text
    return lines, printed, Lost.model_validate_json(lost)


def test_the_worker_has_the_machines_own_paths(echo: EngineActor, tmp_path: Path) -> None:
    (line,) = heard(echo, 1)
    own = WorkerSettings.model_validate_json(line)
    machine = tmp_path / "machine"
    assert own.base_model_path == str(BASE.resolve())
    assert Path(own.scratch_dir).is_relative_to(machine / "scratch")
    assert Path(own.cache_dir) == machine / "cache" / "datasets"
    assert own.general_data == ""
    echo.end()
    assert not list((machine / "scratch").iterdir())


def test_general_data_comes_with_the_order(
    monkeypatch: pytest.MonkeyPatch, actor: EngineActor, tmp_path: Path
) -> None:
    monkeypatch.setattr("trainer_svc.dispatch.ray_actor._ENGINE", ECHO)
    actor.begin(encode(order(tmp_path, general_data='{"text": "é"}')))
    own = WorkerSettings.model_validate_json(heard(actor, 1)[0])
    assert Path(own.general_data).read_text("utf-8") == '{"text": "é"}'


def test_reports_come_in_order_and_the_end_last(echo: EngineActor) -> None:
    sent = [f"line {number}\n".encode() for number in range(1000)]
    for line in sent[:50]:
        echo.send(line)
    assert heard(echo, 51)[1:] == sent[:50]
    for line in sent[50:]:
        echo.send(line)
    echo.send(b"print of /srv/models\n")
    echo.send(b"exit 7\n")
    lines, printed, lost = the_end(echo)
    assert lines[: len(sent) - 50] == sent[50:]
    assert printed == ["of /srv/models"]
    assert lost.message == "the worker process ended with status 7"
    assert (lost.printed, lost.from_outside) == ("of models", False)
    echo.send(b"to nobody\n")
    assert the_end(echo)[2] == lost


def test_a_worker_that_somebody_else_ended_is_told_as_that(echo: EngineActor) -> None:
    heard(echo, 1)
    echo.send(b"signal 15\n")
    lost = the_end(echo)[2]
    assert lost.message == "the worker process was ended by SIGTERM, which somebody else sent"
    assert lost.from_outside


def test_the_end_is_told_when_everything_before_it_is(
    monkeypatch: pytest.MonkeyPatch, echo: EngineActor
) -> None:
    monkeypatch.setattr("trainer_svc.dispatch.ray_actor._BATCH_BYTES", 1)
    heard(echo, 1)
    for line in (b"one\n", b"two\n", b"exit 7\n"):
        echo.send(line)
    assert the_end(echo)[0] == [b"one\n", b"two\n", b"exit 7\n"]


def test_the_real_worker_gets_ready(actor: EngineActor, tmp_path: Path) -> None:
    actor.begin(encode(order(tmp_path)))
    ready = REPORT.validate_json(heard(actor, 1)[0])
    assert isinstance(ready, Ready)
    assert ready.device == "cpu"
    assert actor.node()[1] == __version__


def test_a_machine_without_the_base_has_no_worker(actor: EngineActor, tmp_path: Path) -> None:
    actor.begin(encode(order(tmp_path, base_model=str(tmp_path / "empty"))))
    assert "its machine has not the base" in the_end(actor)[2].message


def test_a_base_with_another_digest_is_not_the_base(actor: EngineActor, tmp_path: Path) -> None:
    asked = order(tmp_path)
    other = asked.settings.model_copy(update={"base_model_digest": "sha256:" + "0" * 64})
    actor.begin(encode(asked.model_copy(update={"settings": other})))
    message = the_end(actor)[2].message
    assert message.startswith("no worker was started: its machine has not the base")
    assert asked.settings.base_model_digest in message


def test_a_machine_without_a_folder_to_write_in_has_no_worker(
    actor: EngineActor, tmp_path: Path
) -> None:
    (tmp_path / "machine").write_text("in the way")
    actor.begin(encode(order(tmp_path)))
    assert "cannot be started" in the_end(actor)[2].message


def test_nothing_new_is_an_empty_answer(monkeypatch: pytest.MonkeyPatch, echo: EngineActor) -> None:
    heard(echo, 1)
    monkeypatch.setattr("trainer_svc.dispatch.ray_actor._POLL_SECONDS", 0.01)
    assert echo.receive() == ([], [], b"")


def test_an_actor_that_nobody_asks_for_ends_with_its_worker(tmp_path: Path) -> None:
    asked = order(tmp_path)
    short = asked.cluster.model_copy(update={"silence_seconds": 1.0})
    (tmp_path / "order").write_bytes(encode(asked.model_copy(update={"cluster": short})))
    script = f"""
import pathlib, time
from trainer_svc.dispatch import ray_actor
ray_actor._ENGINE = {ECHO!r}
actor = ray_actor.EngineActor()
actor.begin(pathlib.Path({str(tmp_path / "order")!r}).read_bytes())
for _ in range(6):
    time.sleep(0.5)
    actor.attend()
print(actor._engine._child.pid, flush=True)
time.sleep(600)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 1
    assert "nobody has asked for the worker for 2 s" in done.stderr.decode()
    worker = int(done.stdout)
    while Path(f"/proc/{worker}").exists():
        time.sleep(0.05)


def test_a_worker_that_says_nothing_any_more_is_told_as_lost(
    monkeypatch: pytest.MonkeyPatch, actor: EngineActor, tmp_path: Path
) -> None:
    monkeypatch.setattr("trainer_svc.dispatch.ray_actor._ENGINE", ECHO)
    asked = order(tmp_path)
    short = asked.settings.model_copy(update={"silence_seconds": 0.5})
    actor.begin(encode(asked.model_copy(update={"settings": short})))
    lost = the_end(actor)[2]
    assert lost.message.endswith("had said or taken nothing for 0.5 s")
    assert not lost.from_outside
