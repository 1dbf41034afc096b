"""SIGTERM as a preempted pod gets it, in every phase of a job: checkpoint, end, resume.

Kueue and a rolling update do the same: SIGTERM, a grace, and then SIGKILL.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tailorbird.tuning.v1 import job_pb2
from tests.acceptance.stopped_trainer import STEP
from tests.acceptance.trainer_job import ACME, published, start_job, watch, watch_some
from tests.acceptance.trainer_process import trainer

POD_GRACE = 60
"""Seconds from SIGTERM to SIGKILL."""
# The service would wait longer for its calls than the pod lives: a watcher must not hold it.
SETTINGS = {"PROGRESS_INTERVAL": "0", "SHUTDOWN_GRACE": "600"}
# None falls due in these jobs: the last checkpoint was made for the stop, or for the end.
NEVER = 1000

Events = Sequence[job_pb2.JobEvent]


def stopped_at(moment: str, data_dir: Path) -> tuple[str, list[job_pb2.JobEvent]]:
    """Run a job to the moment where its trainer is told to stop; return what a watcher saw.

    The watch ends with the stop: what the trainer records after it comes with the next watch.
    """
    command = ("tests.acceptance.stopped_trainer", moment)
    with trainer(data_dir, *command, settings=SETTINGS) as (process, address):
        name = start_job(address, checkpoint_interval=NEVER)
        seen = watch(address, name)
        assert process.wait(timeout=POD_GRACE) == 0
    return name, seen


def resumed_to_its_end(data_dir: Path, name: str, seen: Events) -> list[job_pb2.JobEvent]:
    """Start the trainer again; return the job's whole history, which goes on from what was seen."""
    with trainer(data_dir, "trainer_svc", settings=SETTINGS) as (process, address):
        rest = watch(address, name, after=len(seen))
        events = watch(address, name)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=POD_GRACE) == 0
    assert [*seen, *rest] == events
    return events


def check_ended_once(events: Events, data_dir: Path) -> None:
    store = data_dir / "store"
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    states = [e.state_changed.state for e in events if e.HasField("state_changed")]
    assert states.count(job_pb2.JOB_STATE_SUCCEEDED) == 1
    assert events[-1].state_changed.state == job_pb2.JOB_STATE_SUCCEEDED
    assert sum(event.HasField("published") for event in events) == 1
    assert len(published(store)) == 1
    assert len(list(store.glob(f"{ACME}/adapters/voice/versions/*"))) == 1
    assert len(list(store.glob(f"{ACME}/adapters/voice/routes/*"))) == 1


def steps(events: Events) -> list[int]:
    return [e.step_progress.step for e in events if e.HasField("step_progress")]


def checkpoints(events: Events) -> list[int]:
    return [e.checkpoint_saved.step for e in events if e.HasField("checkpoint_saved")]


def resumptions(events: Events) -> list[int]:
    return [e.resumed.resumed_from_step for e in events if e.HasField("resumed")]


def before_resumption(events: Events) -> Events:
    return events[: [event.HasField("resumed") for event in events].index(True)]


def total_steps(events: Events) -> int:
    return next(e.prepared.total_steps for e in events if e.HasField("prepared"))


def test_a_running_job_is_checkpointed_at_its_step_and_takes_none_twice(tmp_path: Path) -> None:
    name, seen = stopped_at("running", tmp_path / "data")
    events = resumed_to_its_end(tmp_path / "data", name, seen)
    check_ended_once(events, tmp_path / "data")
    (resumed_from,) = resumptions(events)
    before = before_resumption(events)
    assert resumed_from >= STEP
    assert checkpoints(before)[-1:] == [resumed_from] == steps(before)[-1:]
    assert steps(events) == list(range(1, total_steps(events) + 1))


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("evaluating", marks=pytest.mark.long),
        pytest.param("upload", marks=pytest.mark.long),
        pytest.param("commit", marks=pytest.mark.long),
        "manifest",
        pytest.param("success", marks=pytest.mark.long),
    ],
)
def test_a_trained_job_is_published_once_without_another_step(tmp_path: Path, moment: str) -> None:
    """It goes on after the last step's checkpoint, or was written to its end within the grace."""
    name, seen = stopped_at(moment, tmp_path / "data")
    events = resumed_to_its_end(tmp_path / "data", name, seen)
    check_ended_once(events, tmp_path / "data")
    assert set(resumptions(events)) <= {total_steps(events)}
    assert steps(events) == list(range(1, total_steps(events) + 1))


@pytest.mark.long
def test_a_job_that_is_being_prepared_begins_again(tmp_path: Path) -> None:
    name, seen = stopped_at("preparing", tmp_path / "data")
    assert steps(seen) == []
    events = resumed_to_its_end(tmp_path / "data", name, seen)
    check_ended_once(events, tmp_path / "data")
    assert resumptions(events) == [0]


@pytest.mark.long
def test_a_queued_job_waits_for_the_next_trainer(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with trainer(data_dir, "trainer_svc", settings=SETTINGS) as (process, address):
        # The worker loads its base for seconds yet.
        name = start_job(address)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=POD_GRACE) == 0
    events = resumed_to_its_end(data_dir, name, [])
    check_ended_once(events, data_dir)
    assert resumptions(events) == []


@pytest.mark.parametrize("own_grace", ["600", pytest.param("0.2", marks=pytest.mark.long)])
def test_a_step_longer_than_the_grace_loses_what_came_after_the_last_checkpoint(
    tmp_path: Path, own_grace: str
) -> None:
    """With a long grace of its own the trainer is killed with its pod; with a short one it ends."""
    data_dir = tmp_path / "data"
    settings = SETTINGS | {"SHUTDOWN_GRACE": own_grace}
    with trainer(data_dir, "trainer_svc", settings=settings) as (process, address):
        name = start_job(address, batch_tokens=64)
        seen: list[job_pb2.JobEvent] = []
        while not checkpoints(seen) or steps(seen)[-1] <= checkpoints(seen)[-1]:
            seen += watch_some(address, name, len(seen), 1)
        worker = only_child(process)
        # In the middle of a step for as long as it pleases.
        os.kill(worker, signal.SIGSTOP)
        process.send_signal(signal.SIGTERM)
        seen += watch(address, name, after=len(seen))
        if own_grace == "600":
            process.kill()
            os.kill(worker, signal.SIGKILL)
            assert process.wait(timeout=POD_GRACE) == -signal.SIGKILL
        else:
            assert process.wait(timeout=POD_GRACE) == 0
    events = resumed_to_its_end(data_dir, name, seen)
    check_ended_once(events, data_dir)
    (resumed_from,) = resumptions(events)
    assert resumed_from >= checkpoints(before_resumption(events))[-1] >= 5


def only_child(process: subprocess.Popen[bytes]) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (child,) = children
    return int(child)
