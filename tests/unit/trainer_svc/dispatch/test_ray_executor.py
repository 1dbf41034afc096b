"""The real relay process, in front of what stands for Ray; the real Ray has tests of its own."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.trainer_process import BASE
from tests.unit.trainer_svc.dispatch.test_ray_actor import order
from trainer_svc.dispatch.executor import WorkerLost
from trainer_svc.dispatch.process_worker import ProcessWorker
from trainer_svc.dispatch.ray_executor import RayExecutor
from trainer_svc.dispatch.ray_order import RayCluster
from trainer_svc.protocol import Cancel, LeaseKey

DIGEST = "sha256:base"
FAKE = Path(__file__).parent / "fake_ray"


@pytest.fixture
def cluster() -> Iterator[str]:
    """The address of a cluster's port, at which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"ray://127.0.0.1:{listening.getsockname()[1]}"


class World:
    """An executor, and what its relay asked of Ray."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._calls = folder / "calls"
        paths = [str(FAKE), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
        monkeypatch.setenv("FAKE_RAY_CALLS", str(self._calls))
        monkeypatch.setattr("trainer_svc.dispatch.ray_executor.find_spec", lambda _: True)

    def executor(
        self,
        address: str,
        model: str = str(BASE),
        general_data: str = "",
        silence: float | None = None,
    ) -> RayExecutor:
        asked = order(self._folder)
        settings = asked.settings.model_copy(
            update={"general_data": general_data, "silence_seconds": silence}
        )
        changes = {"address": address, "room_seconds": 2.0, "silence_seconds": 3.0}
        changes |= {"resources": {"large": 0.5}, "memory": 2**33, "gpus": 0.25}
        where = RayCluster.model_validate(asked.cluster.model_dump() | changes)
        return RayExecutor({DIGEST: settings}, {DIGEST: model}, where)

    @property
    def calls(self) -> list[str]:
        return self._calls.read_text().splitlines()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


async def started(executor: RayExecutor) -> ProcessWorker:
    worker = await executor.start(0, DIGEST)
    assert isinstance(worker, ProcessWorker)
    return worker


async def test_a_worker_on_a_cluster_is_told_and_heard_until_it_is_closed(
    world: World, cluster: str
) -> None:
    executor = world.executor(cluster)
    worker = await started(executor)
    assert executor.ready[DIGEST].device == "cpu"
    await worker.send(Cancel(lease=LeaseKey(job="tenants/a/jobs/b", epoch=1)))
    await worker.close()
    assert world.calls[:4] == [
        f"init {cluster} False",
        "options max_concurrency=8 max_restarts=0 max_task_retries=0 memory=8589934592 "
        "num_cpus=1.0 num_gpus=0.25 resources={'large': 0.5}",
        "node",
        "begin",
    ]
    assert sorted(world.calls[4:-1]) == ["end", "send"]
    assert world.calls[-1] == "shutdown"
    with pytest.raises(ProcessLookupError):
        os.kill(worker.pid, 0)


@pytest.mark.parametrize(
    ("wrong", "reason", "says"),
    [
        ("refuses", "RAY_UNREACHABLE", "(TAILORBIRD_RAY_ADDRESS) cannot be used: ConnectionError"),
        ("full", "RAY_NO_ROOM", "within 2 s (1 CPU, 0.25 GPU, 8.58993e+09 bytes of memory, 0.5"),
        ("older", "RAY_OTHER_RELEASE", "the machine host of the Ray cluster has Tailorbird 0.0.1"),
    ],
)
async def test_a_cluster_that_cannot_be_used_is_told_with_the_settings(
    world: World, cluster: str, monkeypatch: pytest.MonkeyPatch, wrong: str, reason: str, says: str
) -> None:
    monkeypatch.setenv("FAKE_RAY", wrong)
    # It is not waited for longer than that once it is known.
    monkeypatch.setattr("trainer_svc.dispatch.child._CLOSE_SECONDS", 30.0)
    with pytest.raises(WorkerLost) as caught:
        await world.executor(cluster).start(0, DIGEST)
    assert caught.value.reason == reason
    assert says in caught.value.message


async def test_a_cluster_where_nobody_listens_is_not_there(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(WorkerLost, match="cannot be used: Connection refused") as caught:
        await world.executor(f"127.0.0.1:{port}").start(0, DIGEST)
    assert caught.value.reason == "RAY_UNREACHABLE"


@pytest.mark.parametrize("wrong", ["silent", "dies"])
async def test_a_machine_that_is_gone_or_silent_is_a_lost_worker(
    world: World, cluster: str, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    monkeypatch.setenv("FAKE_RAY", wrong)
    with pytest.raises(WorkerLost) as caught:
        worker = await started(world.executor(cluster))
        try:
            await worker.receive()
        finally:
            await worker.close()
    error = caught.value
    assert error.message == "the worker's machine, or its Ray actor, is gone"
    assert error.from_outside
    assert error.printed == ""


async def test_how_a_worker_ended_on_its_machine_is_told_here(
    world: World, cluster: str, tmp_path: Path
) -> None:
    worker = await started(world.executor(cluster))
    os.kill(engine_of(tmp_path), signal.SIGSEGV)
    with pytest.raises(WorkerLost) as caught:
        await worker.receive()
    await worker.close()
    assert caught.value.message == "the worker process was ended by SIGSEGV"
    assert not caught.value.from_outside
    assert caught.value.printed.startswith("Fatal Python error: Segmentation fault")
    assert str(tmp_path) not in caught.value.printed


def engine_of(folder: Path) -> int:
    """Return the one worker process that writes to a folder of the test."""
    processes = [each for each in Path("/proc").iterdir() if each.name.isdigit()]
    (engine,) = (int(each.name) for each in processes if _is_engine_of(each, folder))
    return engine


def _is_engine_of(process: Path, folder: Path) -> bool:
    try:
        command = (process / "cmdline").read_bytes()
        environment = (process / "environ").read_bytes()
    except OSError:
        return False
    return b"trainer_svc.engine\0" in command and str(folder).encode() in environment


async def test_a_machine_without_the_base_is_a_lost_worker(
    world: World, cluster: str, tmp_path: Path
) -> None:
    with pytest.raises(WorkerLost, match="its machine has not the base") as caught:
        await world.executor(cluster, model=str(tmp_path / "none")).start(0, DIGEST)
    assert caught.value.reason == "WORKER_LOST"


async def test_general_data_that_cannot_be_read_any_more_is_told(
    world: World, cluster: str, tmp_path: Path
) -> None:
    with pytest.raises(WorkerLost, match="no worker can be asked for"):
        executor = world.executor(cluster, general_data=str(tmp_path / "none"))
        await executor.start(0, DIGEST)


@pytest.mark.parametrize(("worker", "relay"), [(None, None), (7.0, 7.0 + 2 * 3.0)])
async def test_a_relay_has_the_time_to_tell_of_a_silent_worker_and_machine(
    world: World, monkeypatch: pytest.MonkeyPatch, worker: float | None, relay: float | None
) -> None:
    async def spawn(*_: object, silence: float | None, **__: object) -> None:
        asked.append(silence)
        raise OSError("the test ends here")

    asked: list[float | None] = []
    monkeypatch.setattr("trainer_svc.dispatch.ray_executor.spawn", spawn)
    with pytest.raises(WorkerLost, match="the test ends here"):
        await world.executor("ray://127.0.0.1:1", silence=worker).start(0, DIGEST)
    assert asked == [relay]
