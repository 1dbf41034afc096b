"""What a start waits for: bytes of a base, a service's last record, or nothing that moves."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from tailorbird.base_source import HubModel
from tailorbird.cli import waiting as module
from tailorbird.cli.service_process import Part, Plan, Service, ServiceDied
from tailorbird.cli.waiting import Waiting

QUIET = "import signal\nsignal.pause()\n"
BUSY = "while True: pass\n"


@contextmanager
def service(folder: Path, code: str) -> Iterator[Service]:
    """A process in place of a service."""
    (folder / "stand_in.py").write_text(code)
    before = Path.cwd()
    os.chdir(folder)
    part = Part("serving", ("-m", "stand_in"), "127.0.0.1", 1, 1)
    one = Service(part, Plan(folder / "data", "none"))
    os.chdir(before)
    yield one
    one.kill()
    one.finish(0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that `Waiting` sees, to be set."""
    now = [1000.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_growth_of_the_cache_is_told_as_a_download(tmp_path: Path, clock: list[float]) -> None:
    told: list[str] = []
    hub = HubModel("org/model", 4 * 2**20, tmp_path / "models--org--model")
    with service(tmp_path, QUIET) as one:
        waiting = Waiting(hub, told.append)
        waiting.waits(one, 0)
        blobs = hub.folder / "blobs"
        blobs.mkdir(parents=True)
        (blobs / "abc.incomplete").write_bytes(os.urandom(2**20))
        clock[0] += 2
        waiting.waits(one, 2)
        # Preallocated, not fetched.
        with (blobs / "def.incomplete").open("wb") as file:
            file.truncate(2**30)
        clock[0] += 2
        waiting.waits(one, 4)
    assert told == [
        "serving starts (0 s)",
        "serving starts (2 s): fetching org/model: 1.0 MiB of 4.0 MiB, 0.5 MiB/s",
        "serving starts (4 s): fetching org/model: 1.0 MiB of 4.0 MiB, 0.2 MiB/s",
    ]


def test_the_last_record_is_told(tmp_path: Path, clock: list[float]) -> None:
    told: list[str] = []
    with service(tmp_path, QUIET) as one:
        record = {"event": "loading weights", "level": "info", "timestamp": "now", "shard": 2}
        one.log.write_text(json.dumps(record) + "\n")
        Waiting(None, told.append).waits(one, 7)
    assert told == ["serving starts (7 s): info: loading weights shard=2"]


def test_nothing_is_told_twice_a_second(tmp_path: Path, clock: list[float]) -> None:
    told: list[str] = []
    with service(tmp_path, QUIET) as one:
        waiting = Waiting(None, told.append)
        for seconds in (0.0, 0.1, 0.2, 1.3):
            clock[0] = 1000 + seconds
            waiting.waits(one, seconds)
    assert told == ["serving starts (0 s)", "serving starts (1 s)"]


def test_a_start_in_which_nothing_moves_ends(tmp_path: Path, clock: list[float]) -> None:
    with service(tmp_path, QUIET) as one:
        waiting = Waiting(None, lambda _: None, stall=60)
        waiting.waits(one, 0)
        clock[0] += 59
        waiting.waits(one, 59)
        one.log.write_text("something\n")
        clock[0] += 59
        waiting.waits(one, 118)
        clock[0] += 59
        waiting.waits(one, 177)
        clock[0] += 2
        with pytest.raises(ServiceDied, match="has done nothing for 60 s"):
            waiting.waits(one, 179)


def test_whatever_computes_is_waited_for(tmp_path: Path, clock: list[float]) -> None:
    with service(tmp_path, BUSY) as one:
        waiting = Waiting(None, lambda _: None, stall=3)
        waiting.waits(one, 0)
        begun = module._cpu_seconds(one.pid)
        while module._cpu_seconds(one.pid) < begun + 1.2:
            pass
        clock[0] += 4
        waiting.waits(one, 4)


def test_as_long_as_a_base_is_fetched_it_is_waited_for(tmp_path: Path, clock: list[float]) -> None:
    hub = HubModel("org/model", None, tmp_path / "models--org--model")
    (hub.folder / "blobs").mkdir(parents=True)
    with service(tmp_path, QUIET) as one:
        waiting = Waiting(hub, lambda _: None, stall=5)
        for seconds in range(0, 40, 2):
            (hub.folder / "blobs" / f"{seconds}").write_bytes(b"1" * 8192)
            clock[0] += 2
            waiting.waits(one, seconds)
