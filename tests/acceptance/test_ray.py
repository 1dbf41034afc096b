"""Workers on a real Ray cluster, each machine of which is a process that can be killed."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import psutil
import pytest

from tailorbird.manifest import ADAPTER_WEIGHTS, AdapterManifest, file_entry
from tailorbird.tuning.v1 import job_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as pb
from tailorbird.tuning.v1 import tuning_service_pb2_grpc as pb_grpc
from tests.acceptance.own_network import in_its_own_network
from tests.acceptance.ray_cluster import Node, listening, ray_cluster
from tests.acceptance.trainer_job import published, start_job, watch
from tests.acceptance.trainer_process import trainer

pytest.importorskip("ray")

_ENGINE, _RELAY = "trainer_svc.engine", "trainer_svc.dispatch.ray_relay"
_SUCCEEDED = job_pb2.JOB_STATE_SUCCEEDED


def settings(address: str, folder: Path, **more: str) -> dict[str, str]:
    return {"RAY_ADDRESS": address, "RAY_DATA_DIR": str(folder / "machine"), **more}


def events_of(address: str, name: str) -> Iterator[job_pb2.JobEvent]:
    with grpc.insecure_channel(address) as channel:
        stream = pb_grpc.TuningServiceStub(channel).WatchJob(pb.WatchJobRequest(name=name))
        for response in stream:
            yield response.event


def step_of_checkpoint(address: str, name: str) -> int:
    """Wait for a checkpoint of the job, and return its step."""
    for event in events_of(address, name):
        if event.HasField("checkpoint_saved"):
            return event.checkpoint_saved.step
    raise AssertionError("no checkpoint")


def holder(*nodes: Node) -> Node:
    """Return the node that has a worker process."""
    (node,) = (node for node in nodes if node.running(_ENGINE))
    return node


def check_published_once(events: list[job_pb2.JobEvent], data_dir: Path) -> None:
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events[-1].state_changed.state == _SUCCEEDED
    assert sum(event.HasField("published") for event in events) == 1
    (path,) = published(data_dir / "store")
    manifest = AdapterManifest.from_json(path.read_bytes())
    weights = path.parent / ADAPTER_WEIGHTS
    assert file_entry(weights) == manifest.files[ADAPTER_WEIGHTS]


def check_resumed(events: list[job_pb2.JobEvent], step: int) -> None:
    """The job went on once, from a checkpoint that is not before `step`."""
    (resumed,) = (event.resumed for event in events if event.HasField("resumed"))
    assert resumed.resumed_from_step >= step > 0


def log_of(folder: Path) -> str:
    return (folder / "trainer.log").read_text()


def running(parent: int, module: str) -> list[psutil.Process]:
    """Return the children of a process that run `module`."""
    found = []
    for each in psutil.Process(parent).children():
        with suppress(psutil.Error):
            if module in each.cmdline():
                found.append(each)
    return found


def wait_for_tries(trainer_pid: int, count: int) -> None:
    """Wait until the trainer has begun so many further tries to have a worker."""
    seen = {each.pid for each in running(trainer_pid, _RELAY)}
    wanted = len(seen) + count
    while len(seen) < wanted:
        seen |= {each.pid for each in running(trainer_pid, _RELAY)}
        time.sleep(0.02)


@pytest.mark.timeout(600)
@in_its_own_network
def test_a_job_goes_on_from_its_checkpoint_when_its_machine_dies(tmp_path: Path) -> None:
    """With the cluster's client server between, as from a pod that is no node of the cluster."""
    with ray_cluster() as cluster:
        nodes = cluster.add_all(2)
        chosen = settings(cluster.client_address, tmp_path)
        with trainer(tmp_path / "data", "trainer_svc", settings=chosen) as (process, address):
            name = start_job(address, batch_tokens=64)
            step = step_of_checkpoint(address, name)
            dead = holder(*nodes)
            dead.kill()
            events = watch(address, name)
            # The operator's ports are the trainer's alone: the cluster's client needs none.
            assert listening(process.pid) == listening(process.pid, descendants=False)
            (alive,) = (node for node in nodes if node is not dead)
            assert alive.running(_ENGINE)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
        assert not alive.running(_ENGINE)
    check_resumed(events, step)
    check_published_once(events, tmp_path / "data")
    assert "the worker's machine, or its Ray actor, is gone" in log_of(tmp_path)


@pytest.mark.long
@pytest.mark.timeout(600)
@in_its_own_network
def test_a_job_goes_on_when_its_machine_falls_silent(tmp_path: Path) -> None:
    """Stopped, it holds its connections open as one does that the network has lost."""
    with ray_cluster() as cluster:
        nodes = cluster.add_all(2)
        chosen = settings(cluster.client_address, tmp_path, RAY_SILENCE_SECONDS="5")
        with trainer(tmp_path / "data", "trainer_svc", settings=chosen) as (_, address):
            name = start_job(address, batch_tokens=64)
            step = step_of_checkpoint(address, name)
            silent = holder(*nodes)
            silent.send(signal.SIGSTOP)
            events = watch(address, name)
            check_resumed(events, step)
            check_published_once(events, tmp_path / "data")
            # It comes back, finds that nobody asks for its worker, and changes nothing.
            workers = silent.running(_ENGINE)
            assert len(workers) == 1
            silent.send(signal.SIGCONT)
            psutil.wait_procs(workers, timeout=120)
            assert not silent.running(_ENGINE)
            assert watch(address, name) == events
    check_published_once(events, tmp_path / "data")


@pytest.mark.long
@pytest.mark.timeout(600)
@in_its_own_network
def test_no_worker_outlives_a_trainer_that_is_killed(tmp_path: Path) -> None:
    """Nor one whose relay is: Ray ends an actor that is not detached with its driver."""
    with ray_cluster() as cluster:
        (node,) = cluster.add_all(1)
        # This machine is a node of the cluster as well.
        chosen = settings(cluster.address, tmp_path)
        with trainer(tmp_path / "data", "trainer_svc", settings=chosen) as (process, address):
            name = start_job(address, batch_tokens=64)
            step = step_of_checkpoint(address, name)
            (before,) = node.running(_ENGINE)
            (relay,) = running(process.pid, _RELAY)
            relay.kill()
            psutil.wait_procs([before], timeout=120)
            assert not before.is_running()
            step_after = next(
                event.resumed.resumed_from_step
                for event in events_of(address, name)
                if event.HasField("resumed")
            )
            assert step_after >= step
            (second,) = node.running(_ENGINE)
            process.kill()
            psutil.wait_procs([second], timeout=120)
            assert not second.is_running()
        with trainer(tmp_path / "data", "trainer_svc", settings=chosen) as (_, address):
            events = watch(address, name)
    check_published_once(events, tmp_path / "data")


@pytest.mark.long
@pytest.mark.timeout(600)
@in_its_own_network
def test_jobs_wait_for_a_cluster_and_for_room_on_it(tmp_path: Path) -> None:
    """Four tries without a cluster or without room: the trainer lives, and a machine is enough."""
    chosen = {"RAY_ROOM_SECONDS": "3", "RAY_WORKER_RESOURCES": '{"large": 1}'}
    with ray_cluster() as cluster:
        cluster.add_all(1)
        own = settings(cluster.client_address, tmp_path, **chosen)
        with trainer(tmp_path / "data", "trainer_svc", settings=own) as (process, address):
            name = start_job(address)
            wait_for_tries(process.pid, 4)
            cluster.add_all(1, resources='{"large": 1}')
            events = watch(address, name)
    check_published_once(events, tmp_path / "data")
    assert "had room for a worker within 3 s (1 CPU, 1 large)" in log_of(tmp_path)


@pytest.mark.long
@pytest.mark.timeout(600)
@in_its_own_network
def test_a_cluster_that_goes_and_comes_back_has_the_jobs_again(tmp_path: Path) -> None:
    with ray_cluster() as cluster:
        cluster.add_all(1)
        chosen = settings(cluster.client_address, tmp_path)
        with trainer(tmp_path / "data", "trainer_svc", settings=chosen) as (process, address):
            name = start_job(address, batch_tokens=64)
            step = step_of_checkpoint(address, name)
            cluster.kill()
            wait_for_tries(process.pid, 4)
            cluster.begin()
            cluster.add_all(1)
            events = watch(address, name)
    check_resumed(events, step)
    check_published_once(events, tmp_path / "data")
    assert "(TAILORBIRD_RAY_ADDRESS) cannot be used: Connection refused" in log_of(tmp_path)


@pytest.mark.long
@pytest.mark.timeout(600)
@in_its_own_network
def test_a_worker_that_takes_too_much_memory_is_ended_there(tmp_path: Path) -> None:
    """And what it is told of it comes the whole way, to the job's error."""
    with ray_cluster() as cluster:
        cluster.add_all(1)
        chosen = settings(cluster.address, tmp_path, WORKER_MEMORY_GIB="0.05")
        with trainer(tmp_path / "data", "trainer_svc", settings=chosen) as (process, _):
            assert process.wait(timeout=300) == 1
    assert "WORKER_CANNOT_START" in log_of(tmp_path)
    assert "it took more than the 0.05 GiB of memory" in log_of(tmp_path)
