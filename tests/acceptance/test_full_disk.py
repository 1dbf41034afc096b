"""The disk under a running trainer is full: nothing breaks, and with room again the job goes on."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import grpc
import pytest

from tailorbird.call_error import CallError
from tailorbird.client import TrainerClient
from tailorbird.rpc.status import reason_of_status
from tailorbird.tuning.v1 import job_pb2
from tests.acceptance.test_restarted_database import metrics_port, until_status
from tests.acceptance.test_several_trainers import check_one_history, until
from tests.acceptance.trainer_job import ACME, records, start_job
from tests.acceptance.trainer_process import trainer

_MOUNTED = 'mount -t tmpfs -o size=64m none "$0" && exec "$@"'


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Return where a trainer started as `on_disk` says has a small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        done = subprocess.run(
            [*on_disk(folder), "true"], capture_output=True, text=True, check=False, timeout=60
        )
    except FileNotFoundError:
        pytest.skip("no unshare(1) here to mount a small disk with")
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    return folder


def on_disk(folder: Path) -> Sequence[str]:
    """Return what a command begins with that sees the small disk."""
    return ["unshare", "--map-root-user", "--mount", "sh", "-c", _MOUNTED, str(folder)]


def fill(disk: Path) -> Path:
    """Leave no room; return the file whose removal makes some."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        size = 2**20
        while size:
            try:
                file.write(b"f" * size)
            except OSError:
                size //= 2
    return filler


def paused(client: TrainerClient, name: str, after: int) -> list[job_pb2.JobEvent]:
    """Return the job's events up to its pause, which a full disk is the reason of."""
    seen = []
    for event in client.watch_job(name, after):
        seen.append(event)
        if event.state_changed.state == job_pb2.JOB_STATE_PAUSED:
            break
    job = client.get_job(name)
    assert job.state == job_pb2.JOB_STATE_PAUSED
    assert reason_of_status(job.error) == "DISK_FULL"
    return seen


def check_full(call: Callable[[], object], code: grpc.StatusCode, reason: str) -> None:
    with pytest.raises(CallError) as caught:
        call()
    assert (caught.value.code, caught.value.reason) == (code, reason)
    assert caught.value.retry_after


def test_a_job_waits_for_room_in_the_object_store_and_goes_on(tmp_path: Path, disk: Path) -> None:
    settings = {"OBJECT_STORE": (disk / "store").as_uri(), "PROGRESS_INTERVAL": "0"}
    (tmp_path / "more").write_bytes(records(90))
    with (
        trainer(tmp_path / "data", "trainer_svc", prefix=on_disk(disk), settings=settings) as made,
        TrainerClient(made[1]) as client,
    ):
        seen_by_it = Path(f"/proc/{made[0].pid}/root{disk}")
        upload = partial(client.upload_dataset, ACME, "more", tmp_path / "more")
        name = start_job(made[1], batch_tokens=64)
        seen = until(made[1], name, "checkpoint_saved")
        filler = fill(seen_by_it)
        seen += paused(client, name, seen[-1].sequence)
        check_full(upload, grpc.StatusCode.RESOURCE_EXHAUSTED, "DISK_FULL")
        filler.unlink()
        upload()
        client.resume_job(name)
        rest = list(client.watch_job(name, seen[-1].sequence))
        check_one_history([*seen, *rest], seen_by_it / "store")
    (resumed,) = [event.resumed.resumed_from_step for event in rest if event.HasField("resumed")]
    saved = [event.checkpoint_saved.step for event in seen if event.HasField("checkpoint_saved")]
    assert resumed == saved[-1]


def test_a_trainer_whose_whole_disk_is_full_loses_nothing(tmp_path: Path, disk: Path) -> None:
    """Its job store is on that disk as well, and cannot even tell that the job waits."""
    settings = {"DATA_DIR": str(disk), "LEASE_SECONDS": "4"}
    with (
        trainer(tmp_path / "data", "trainer_svc", prefix=on_disk(disk), settings=settings) as made,
        TrainerClient(made[1]) as client,
    ):
        port = metrics_port(tmp_path / "trainer.log")
        seen_by_it = Path(f"/proc/{made[0].pid}/root{disk}")
        name = start_job(made[1], batch_tokens=64)
        seen = until(made[1], name, "checkpoint_saved")
        filler = fill(seen_by_it)
        until_status(port, "readyz", 503)
        assert client.get_job(name).state == job_pb2.JOB_STATE_RUNNING
        check_full(
            partial(client.pause_job, name), grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE"
        )
        filler.unlink()
        seen += paused(client, name, seen[-1].sequence)
        client.resume_job(name)
        rest = list(client.watch_job(name, seen[-1].sequence))
        assert made[0].poll() is None
        check_one_history([*seen, *rest], seen_by_it / "store")
