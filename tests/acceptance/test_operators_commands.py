"""Collecting and erasing by command, beside a real trainer that goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc

from tailorbird.tuning.v1 import job_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as pb
from tailorbird.tuning.v1 import tuning_service_pb2_grpc as pb_grpc
from tests.acceptance.trainer_job import ACME, published, start_job, watch
from tests.acceptance.trainer_process import BASE, trainer
from trainer_svc.housekeeping.erased import Erasure
from trainer_svc.housekeeping.model import Collected, Kind


def command(data_dir: Path, *arguments: str) -> str:
    """Run a command with the trainer's own settings; return what it prints."""
    environment = {
        **os.environ,
        "TAILORBIRD_DATA_DIR": str(data_dir),
        "TAILORBIRD_BASE_MODEL": str(BASE),
    }
    ran = subprocess.run(
        [sys.executable, "-m", "trainer_svc", *arguments, "--json"],
        env=environment,
        capture_output=True,
        check=True,
        timeout=60,
    )
    return ran.stdout.decode()


def test_a_tenant_is_collected_and_erased_while_its_trainer_runs(tmp_path: Path) -> None:
    data_dir, store = tmp_path / "data", tmp_path / "data" / "store"
    with trainer(data_dir, "trainer_svc") as (process, address):
        name = start_job(address)
        assert watch(address, name)[-1].state_changed.state == job_pb2.JOB_STATE_SUCCEEDED
        (manifest,) = published(store)
        left = store / name / "checkpoints" / "lease-000009" / "00000001" / "adapter-0"
        left.parent.mkdir(parents=True)
        left.write_bytes(b"a zombie's")
        long_ago = time.time() - 10 * 86400
        os.utime(left, (long_ago, long_ago))
        found = Collected.model_validate_json(command(data_dir, "collect"))
        assert {kind: count.things for kind, count in found.removed.items()} == {
            Kind.CHECKPOINTS: 1
        }
        assert manifest.exists()
        erased = Erasure.model_validate_json(command(data_dir, "erase", "acme"))
        assert erased.removed[Kind.ENDED_JOBS].things == 1
        assert erased.removed[Kind.LOCAL_CACHES].things > 0
        files = {path.name for path in (store / ACME).rglob("*") if path.is_file()}
        assert files == {"tombstone.json", "000000000002.json"}
        with grpc.insecure_channel(address) as channel:
            stub = pb_grpc.TuningServiceStub(channel)
            assert not stub.ListJobs(pb.ListJobsRequest(parent=ACME)).jobs
            assert not stub.ListDatasets(pb.ListDatasetsRequest(parent=ACME)).datasets
        # The trainer takes the tenant on again as if it were new.
        again = start_job(address)
        assert watch(address, again)[-1].state_changed.state == job_pb2.JOB_STATE_SUCCEEDED
        assert (store / ACME / "adapters" / "voice" / "routes" / "000000000003.json").exists()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
