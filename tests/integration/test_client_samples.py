"""The samples in examples/clients, as their users run them, against services on a real socket."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tailorbird import errors
from tailorbird.tuning.v1 import job_pb2, tuning_service_pb2
from tests.integration.scripted_services import ADAPTER, VERSIONS, Script, a_job_that_succeeds
from tests.node import ROOT, node_modules
from tools.protos_dist import files

DATA = ROOT / "examples" / "support" / "heldout.jsonl"


@pytest.fixture(scope="module")
def protos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("protos")
    for name, data in files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(params=["python", "node"])
def sample(
    request: pytest.FixtureRequest, port: int, protos: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[str]]:
    for name in ("TAILORBIRD_TRAINER", "TAILORBIRD_SERVING"):
        monkeypatch.setenv(name, f"127.0.0.1:{port}")
    monkeypatch.setenv("TAILORBIRD_TOKEN", "secret")
    if request.param == "python":
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "shared"), str(ROOT)]))
        yield [sys.executable, "-m", "examples.clients.fine_tune"]
    else:
        monkeypatch.setenv("NODE_PATH", str(node_modules()))
        monkeypatch.setenv("TAILORBIRD_PROTOS", str(protos))
        yield ["node", str(ROOT / "examples" / "clients" / "node" / "fine_tune.js")]


def run(sample: list[str], data: Path = DATA) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*sample, "tenants/acme", str(data), "Where is it?"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_sample_uploads_trains_watches_and_asks(sample: list[str], script: Script) -> None:
    script.events = a_job_that_succeeds()
    script.breaks_after = [3, 6]
    script.job.state, script.job.version = job_pb2.JOB_STATE_SUCCEEDED, VERSIONS[0]
    ran = run(sample)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [
        "tenants/acme/datasets/heldout: 3 records",
        "step 4: loss 0.250",
        f"published {VERSIONS[0]}",
        "Good morning.",
    ]
    assert ran.stderr == ""
    assert script.received == DATA.stat().st_size
    assert {told["authorization"] for told in script.metadata} == {"Bearer secret"}
    watches = [
        request.after_sequence
        for request in script.requests
        if isinstance(request, tuning_service_pb2.WatchJobRequest)
    ]
    assert watches == [0, 3, 6], "it goes on where the connection was lost"
    asked = script.requests[-1].request
    assert (asked.adapter, asked.version) == (ADAPTER, VERSIONS[0].rpartition("/")[2])
    assert (asked.sampling.temperature, asked.sampling.max_tokens) == (0, 64)
    assert script.metadata[-1]["x-tailorbird-adapter"] == ADAPTER


def test_a_large_file_is_sent_in_chunks(sample: list[str], script: Script, tmp_path: Path) -> None:
    script.events = a_job_that_succeeds()
    script.job.state, script.job.version = job_pb2.JOB_STATE_SUCCEEDED, VERSIONS[0]
    data = tmp_path / "large.jsonl"
    data.write_bytes(b"x" * 20 * 2**20)
    assert run(sample, data).returncode == 0
    assert script.received == 20 * 2**20
    assert max(script.chunk_sizes) <= 2**20


def test_a_sample_says_why_a_call_failed(sample: list[str], script: Script) -> None:
    script.error = errors.AlreadyExists("the name is taken", reason="DATASET_EXISTS")
    ran = run(sample)
    assert ran.returncode == 1
    assert ran.stderr == "ALREADY_EXISTS (DATASET_EXISTS): the name is taken\n"


def test_a_sample_says_why_a_job_failed(sample: list[str], script: Script) -> None:
    script.events = [*a_job_that_succeeds()[:3]]
    script.events += [
        job_pb2.JobEvent(
            sequence=4,
            state_changed=job_pb2.JobEvent.StateChanged(state=job_pb2.JOB_STATE_FAILED),
        )
    ]
    script.job.state = job_pb2.JOB_STATE_FAILED
    script.job.error.message = "the adapter changes nothing"
    ran = run(sample)
    assert ran.returncode == 1
    assert "the adapter changes nothing" in ran.stderr
