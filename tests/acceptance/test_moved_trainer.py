"""A trainer's volume moves to another machine in the middle of a job: it ends there, and once."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tailorbird.client import TrainerClient, is_terminal
from tailorbird.tuning.v1 import job_pb2
from tests.acceptance.trainer_job import published, start_job, watch
from tests.acceptance.trainer_process import trainer


def other_host() -> list[str]:
    """Return what runs a command on a machine of another name; nothing where that is forbidden."""
    rename = ["unshare", "--uts", "sh", "-c", 'hostname elsewhere && exec "$@"', "sh"]
    try:
        subprocess.run([*rename, "true"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return rename


@pytest.mark.parametrize(
    "ending", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.long)]
)
def test_a_job_goes_on_where_its_volume_is(tmp_path: Path, ending: int) -> None:
    here, there = tmp_path / "here" / "data", tmp_path / "there" / "data"
    here.parent.mkdir()
    with trainer(here, "trainer_svc") as (process, address):
        name = start_job(address)
        seen = list(_until_checkpoint(address, name))
        process.send_signal(ending)
        process.wait(60)
    # As it lies: the write-ahead log and the lock's file with it.
    shutil.copytree(here, there)
    shutil.rmtree(here)
    with trainer(there, "trainer_svc", prefix=other_host()) as (_, address):
        events = watch(address, name)
        with TrainerClient(address) as client:
            rest = list(client.watch_job(name, seen[-1].sequence))
    assert events[: len(seen)] == seen
    assert [event.sequence for event in seen + rest] == list(range(1, len(events) + 1))
    assert events[-1].state_changed.state == job_pb2.JOB_STATE_SUCCEEDED
    assert sum(is_terminal(event.state_changed.state) for event in events) == 1
    resumed = [event.resumed for event in events if event.HasField("resumed")]
    assert resumed[0].resumed_from_step > 0
    assert len(published(there / "store")) == 1
    assert not list(there.rglob("*.tmp"))


def _until_checkpoint(address: str, name: str) -> Iterator[job_pb2.JobEvent]:
    with TrainerClient(address) as client:
        for event in client.watch_job(name):
            yield event
            if event.HasField("checkpoint_saved"):
                return
