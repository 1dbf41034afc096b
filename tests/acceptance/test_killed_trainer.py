"""kill -9 of the real trainer at any moment of a job: exactly one version is published."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tailorbird.manifest import ADAPTER_WEIGHTS, AdapterManifest, file_entry
from tailorbird.tuning.v1 import job_pb2
from tests.acceptance.dying_trainer import MOMENTS
from tests.acceptance.trainer_job import ACME, published, start_job, watch, watch_some
from tests.acceptance.trainer_process import BASE, trainer


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_trainer_publishes_exactly_one_version(tmp_path: Path, moment: str) -> None:
    data_dir, store = tmp_path / "data", tmp_path / "data" / "store"
    with trainer(data_dir, "tests.acceptance.dying_trainer", moment) as (process, address):
        name = start_job(address)
        watch(address, name)
        assert process.wait(timeout=120) == -signal.SIGKILL
    with trainer(data_dir, "trainer_svc") as (process, address):
        events = watch(address, name)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events[-1].state_changed.state == job_pb2.JOB_STATE_SUCCEEDED
    resumed = [e.resumed for e in events if e.HasField("resumed")]
    if moment == "checkpoint":
        assert resumed[0].resumed_from_step > 0
    (manifest_path,) = published(store)
    manifest = AdapterManifest.from_json(manifest_path.read_bytes())
    (done,) = (e.published for e in events if e.HasField("published"))
    assert (done.version, done.promoted, done.route_generation) == (manifest.version, True, 1)
    weights = manifest_path.parent / ADAPTER_WEIGHTS
    assert file_entry(weights) == manifest.files[ADAPTER_WEIGHTS]
    assert len(list(store.glob(f"{ACME}/adapters/voice/routes/*"))) == 1
    assert len(list(store.glob(f"{ACME}/adapters/voice/versions/*"))) == 1
    assert not list(store.glob(f"{ACME}/jobs/*/checkpoints/**/*.*"))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_kills_at_any_time_lose_nothing(tmp_path: Path) -> None:
    """The trainer is killed again and again, whatever it does; progress is made all the same."""
    data_dir, store = tmp_path / "data", tmp_path / "data" / "store"
    rng = random.Random(11)
    with trainer(data_dir, "trainer_svc") as (_, address):
        name = start_job(address)
    seen: list[job_pb2.JobEvent] = []
    for _ in range(12):
        with trainer(data_dir, "trainer_svc") as (process, address):
            seen += watch_some(address, name, len(seen), rng.randrange(2, 12))
            process.kill()
    with trainer(data_dir, "trainer_svc") as (_, address):
        events = watch(address, name)
    assert events[: len(seen)] == seen
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events[-1].state_changed.state == job_pb2.JOB_STATE_SUCCEEDED
    assert sum(event.HasField("published") for event in events) == 1
    assert len(published(store)) == 1
    assert len(list(store.glob(f"{ACME}/adapters/voice/routes/*"))) == 1


def test_a_second_trainer_on_the_same_data_is_refused(tmp_path: Path) -> None:
    with trainer(tmp_path / "data", "trainer_svc"):
        environment = {
            **os.environ,
            "TAILORBIRD_DATA_DIR": str(tmp_path / "data"),
            "TAILORBIRD_BASE_MODEL": str(BASE),
        }
        second = subprocess.run(
            [sys.executable, "-m", "trainer_svc"],
            env=environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert second.returncode == 1
    assert "DATA_DIR_LOCKED" in second.stderr


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"TAILORBIRD_HOST": "0.0.0.0"}, "not a loopback address: set TAILORBIRD_TOKENS_FILE"),
        ({"TAILORBIRD_WORKERS": "0"}, "TAILORBIRD_WORKERS: Input should be greater than"),
        ({"TAILORBIRD_BASE_MODEL": ""}, "TAILORBIRD_BASE_MODEL: Field required"),
        ({"TAILORBIRD_BASE_MODEL": "/nowhere"}, "there is no folder /nowhere"),
        ({"TAILORBIRD_OBJECT_STORE": "ftp://x"}, "not a file, s3, gs or az URL"),
        ({"TAILORBIRD_TOKENS_FILE": "/nowhere"}, "/nowhere"),
        ({"TAILORBIRD_DATABASE_URL": "nonsense"}, "TAILORBIRD_DATABASE_URL: it is no URL"),
        ({"TAILORBIRD_DATABASE_URL": "sqlite:///x"}, "DATABASE_URL: sqlite:// cannot be used"),
        ({"TAILORBIRD_DATA_DIR": "/dev/null"}, "the data folder /dev/null cannot be used"),
        ({"TAILORBIRD_DEVICE": "cuda"}, "the base model cannot be loaded"),
    ],
)
def test_wrong_settings_end_the_start_with_a_clear_error(
    tmp_path: Path, change: dict[str, str], text: str
) -> None:
    environment = {
        **os.environ,
        "TAILORBIRD_DATA_DIR": str(tmp_path / "data"),
        "TAILORBIRD_BASE_MODEL": str(BASE),
        "HF_HUB_OFFLINE": "1",
        **change,
    }
    done = subprocess.run(
        [sys.executable, "-m", "trainer_svc"],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode in {1, 2}
    assert text in done.stderr
    assert "Traceback" not in done.stderr
