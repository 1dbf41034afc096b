"""A real worker that says nothing any more: its job goes on with another one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tailorbird.tuning.v1 import job_pb2
from tests.acceptance.trainer_job import ACME, published, start_job, watch, watch_some
from tests.acceptance.trainer_process import trainer

# A worker whose machine is busy must not seem silent: it speaks twelve times in it.
SETTINGS = {"WORKER_SILENCE_SECONDS": "5", "PROGRESS_INTERVAL": "0"}


def only_child(process: subprocess.Popen[bytes]) -> int:
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(child)


def logged(folder: Path) -> list[str]:
    lines = (folder / "trainer.log").read_text().splitlines()
    return [json.loads(line).get("event", "") for line in lines if line.startswith("{")]


@pytest.mark.timeout(300)
def test_a_worker_that_is_stopped_in_a_step_is_followed_by_another(tmp_path: Path) -> None:
    data_dir, store = tmp_path / "data", tmp_path / "data" / "store"
    with trainer(data_dir, "trainer_svc", settings=SETTINGS) as (process, address):
        name = start_job(address, batch_tokens=64)
        seen: list[job_pb2.JobEvent] = []
        while not any(event.HasField("checkpoint_saved") for event in seen):
            seen += watch_some(address, name, len(seen), 1)
        hung = only_child(process)
        os.kill(hung, signal.SIGSTOP)
        events = [*seen, *watch(address, name, after=len(seen))]
        assert only_child(process) != hung
        with pytest.raises(ProcessLookupError):
            os.kill(hung, 0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events[-1].state_changed.state == job_pb2.JOB_STATE_SUCCEEDED
    (resumed,) = (each.resumed for each in events if each.HasField("resumed"))
    assert resumed.resumed_from_step > 0
    assert len(published(store)) == 1
    assert len(list(store.glob(f"{ACME}/adapters/voice/routes/*"))) == 1
    assert logged(tmp_path).count("worker is silent") == 1


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_trainer_that_stood_still_takes_no_worker_for_silent(tmp_path: Path) -> None:
    """It and its worker stand still together, as a paused pod's; then it hears of every step."""
    settings = SETTINGS | {"WORKER_SILENCE_SECONDS": "4"}
    data_dir = tmp_path / "data"
    with trainer(data_dir, "trainer_svc", settings=settings) as (process, address):
        name = start_job(address, batch_tokens=64)
        seen = watch_some(address, name, 0, 12)
        worker = only_child(process)
        for stopped in ((process.pid,), (process.pid, worker)):
            for each in stopped:
                os.kill(each, signal.SIGSTOP)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(6)
            for each in stopped:
                os.kill(each, signal.SIGCONT)
        events = [*seen, *watch(address, name, after=len(seen))]
        assert only_child(process) == worker
    assert events[-1].state_changed.state == job_pb2.JOB_STATE_SUCCEEDED
    assert not any(event.HasField("resumed") for event in events)
    assert "worker is silent" not in logged(tmp_path)
