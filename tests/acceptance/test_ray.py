"""Workers on a real Ray cluster, each machine of which is a process that can be killed."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tailorbird.manifest import AdapterManifest
from tailorbird.tuning.v1 import job_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as pb
from tailorbird.tuning.v1 import tuning_service_pb2_grpc as pb_grpc
from tests.acceptance.own_network import in_its_own_network
from tests.acceptance.ray_cluster import Node, ray_cluster
from tests.acceptance.trainer_job import published, start_job, watch
from tests.acceptance.trainer_process import trainer

pytest.importorskip("ray")

_ENGINE = "trainer_svc.engine"


def settings(address: str, folder: Path, **more: str) -> dict[str, str]:
    return {"RAY_ADDRESS": address, "RAY_DATA_DIR": str(folder / "machine"), **more}


def until_checkpoint(address: str, name: str) -> int:
    """Wait for a checkpoint of the job, and return its step."""
    for event in events_of(address, name):
        if event.HasField("checkpoint_saved"):
            return event.checkpoint_saved.step
    raise AssertionError("no checkpoint")


def events_of(address: str, name: str) -> Iterator[job_pb2.JobEvent]:
    with grpc.insecure_channel(address) as channel:
        stream = pb_grpc.TuningServiceStub(channel).WatchJob(pb.WatchJobRequest(name=name))
        for response in stream:
            yield response.event


def holder(*nodes: Node) -> Node:
    """Return the node that has a worker process."""
    (node,) = (node for node in nodes if node.running(_ENGINE))
    return node


@pytest.mark.timeout(180)
@in_its_own_network
def test_a_job_goes_on_from_its_checkpoint_when_its_machine_dies(tmp_path: Path) -> None:
    with ray_cluster() as cluster:
        nodes = [cluster.add(), cluster.add()]
        chosen = settings(cluster.client_address, tmp_path)
        with trainer(tmp_path / "data", "trainer_svc", settings=chosen) as (process, address):
            name = start_job(address, batch_tokens=64)
            step = until_checkpoint(address, name)
            dead = holder(*nodes)
            began = time.monotonic()
            dead.kill()
            print("killed")
            events = watch(address, name)
            print("ended", time.monotonic() - began)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
    resumed = [event.resumed for event in events if event.HasField("resumed")]
    assert [each.resumed_from_step >= step for each in resumed] == [True]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events[-1].state_changed.state == job_pb2.JOB_STATE_SUCCEEDED
    (manifest,) = published(tmp_path / "data" / "store")
    assert AdapterManifest.from_json(manifest.read_bytes()).version
