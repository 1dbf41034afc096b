"""Workers of the real trainer that die in a step: killed by somebody, or by a job of theirs."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tailorbird.client import TrainerClient
from tailorbird.rpc.status import reason_of_status
from tailorbird.tuning.v1 import job_pb2
from tests.acceptance.test_several_trainers import check_one_history, until
from tests.acceptance.trainer_job import records, start_job
from tests.acceptance.trainer_process import trainer


@contextmanager
def started(folder: Path, losses: int) -> Iterator[tuple[int, str]]:
    """Start a trainer; yield its process's id and its address."""
    settings = {"MAX_WORKER_LOSSES": str(losses), "PROGRESS_INTERVAL": "0"}
    with trainer(folder / "data", "trainer_svc", settings=settings) as (process, address):
        yield process.pid, address


def worker_of(trainer: int) -> int:
    """Return the id of the one worker process of a trainer."""
    children = [
        int(child)
        for task in Path(f"/proc/{trainer}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    (worker,) = [
        child
        for child in children
        if b"trainer_svc.engine" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
    ]
    return worker


def test_a_worker_that_is_killed_in_a_step_is_followed_by_another(tmp_path: Path) -> None:
    with started(tmp_path, losses=1) as (process, address):
        name = start_job(address)
        seen = until(address, name, "checkpoint_saved")
        seen += until_step(address, name, seen[-1].sequence)
        killed = worker_of(process)
        os.kill(killed, signal.SIGKILL)
        with TrainerClient(address) as client:
            rest = list(client.watch_job(name, seen[-1].sequence))
        assert worker_of(process) != killed
    check_one_history([*seen, *rest], tmp_path / "data" / "store")
    # Somebody else's doing: that it died once would have failed the job.
    (resumed,) = [event.resumed for event in rest if event.HasField("resumed")]
    assert resumed.resumed_from_step > 0


@pytest.mark.timeout(300)
def test_a_job_whose_steps_end_three_workers_fails_and_the_one_beside_it_goes_on(
    tmp_path: Path,
) -> None:
    with started(tmp_path, losses=3) as (process, address), TrainerClient(address) as client:
        bad = long_job(client, tmp_path)
        good = start_job(address)
        until_step(address, good, 0)
        after = 0
        for _ in range(3):
            after = until_step(address, bad, after)[-1].sequence
            # What a mistake in native code does; nobody can tell who sends it.
            os.kill(worker_of(process), signal.SIGSEGV)
            after = until_queued(client, bad, after)
        ended = list(client.watch_job(bad, after - 1))[-1]
        assert ended.state_changed.state == job_pb2.JOB_STATE_FAILED
        error = client.get_job(bad).error
        assert reason_of_status(error) == "WORKER_LOST"
        assert "died 3 times; last: the worker process was ended by SIGSEGV" in error.message
        check_one_history(list(client.watch_job(good)), tmp_path / "data" / "store")
        assert client.get_job(good).lease_epoch == 2


def long_job(client: TrainerClient, folder: Path) -> str:
    """Ask for a job of another tenant that takes long; return its name."""
    (folder / "chats").write_bytes(records(200))
    parent = "tenants/globex"
    client.upload_dataset(parent, "chats", folder / "chats")
    spec = job_pb2.JobSpec(
        training_dataset=f"{parent}/datasets/chats",
        adapter=f"{parent}/adapters/voice",
        lora=job_pb2.LoraConfig(rank=8),
        hyperparameters=job_pb2.Hyperparameters(epochs=10, batch_tokens=64),
    )
    return client.create_job(parent, spec).name


def until_step(address: str, name: str, after: int) -> list[job_pb2.JobEvent]:
    """Return the job's next events up to a step."""
    seen = []
    with TrainerClient(address) as client:
        for event in client.watch_job(name, after):
            seen.append(event)
            if event.HasField("step_progress"):
                return seen
    raise AssertionError("no step before the job's end")


def until_queued(client: TrainerClient, name: str, after: int) -> int:
    """Wait until the job is given back, or has ended; return the event's sequence."""
    for event in client.watch_job(name, after):
        if event.state_changed.state in {job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_FAILED}:
            return int(event.sequence)
    raise AssertionError("it was not given back")
