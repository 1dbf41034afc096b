"""Real trainers in several processes on one PostgreSQL, of which one is killed or stands still."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from tailorbird.client import TrainerClient, is_terminal
from tailorbird.tuning.v1 import job_pb2
from tests.acceptance.trainer_job import ACME, published, start_job, watch
from tests.acceptance.trainer_process import trainer

LEASE_SECONDS = 4
_Process = tuple[subprocess.Popen[bytes], str]


class Cluster:
    """Trainers that share a database and an object store."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder = folder
        self.store = folder / "store"
        self._url = database_url

    @contextmanager
    def trainer(
        self, name: str, *command: str, prefix: Sequence[str] = (), **settings: str
    ) -> Iterator[_Process]:
        folder = self.folder / name
        folder.mkdir()
        settings = {
            "DATABASE_URL": self._url,
            "OBJECT_STORE": self.store.as_uri(),
            "LEASE_SECONDS": str(LEASE_SECONDS),
            "PROGRESS_INTERVAL": "0",
            **settings,
        }
        with trainer(folder / "data", *command, prefix=prefix, settings=settings) as found:
            yield found

    def holder(self, job: str) -> int:
        """Return the id of the process that has leased a job."""

        async def owner() -> str:
            engine = create_async_engine(self._url)
            query = sa.text("SELECT lease_owner FROM jobs WHERE job = :job")
            async with engine.connect() as connection:
                found = await connection.execute(query.bindparams(job=job.rpartition("/")[2]))
            await engine.dispose()
            return str(found.scalar_one())

        return int(asyncio.run(owner()).split(":")[1])


@pytest.fixture
def cluster(tmp_path: Path, postgresql_url: str) -> Cluster:
    return Cluster(tmp_path, postgresql_url)


def until(address: str, name: str, wanted: str) -> list[job_pb2.JobEvent]:
    """Return a job's events up to the first of a kind."""
    seen = []
    with TrainerClient(address) as client:
        for event in client.watch_job(name):
            seen.append(event)
            if event.HasField(wanted):  # type: ignore[arg-type]
                return seen
    raise AssertionError(f"no {wanted} before the job's end")


def check_one_history(events: Sequence[job_pb2.JobEvent], store: Path) -> None:
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events[-1].state_changed.state == job_pb2.JOB_STATE_SUCCEEDED
    assert sum(is_terminal(event.state_changed.state) for event in events) == 1
    assert sum(event.HasField("published") for event in events) == 1
    assert len(published(store)) == 1
    assert len(list(store.glob(f"{ACME}/adapters/voice/routes/*"))) == 1


@pytest.mark.timeout(300)
def test_a_worker_that_is_killed_is_followed_by_another_and_a_watch_sees_no_gap(
    cluster: Cluster,
) -> None:
    with (
        cluster.trainer("api", "trainer_svc", "--role", "api") as (_, address),
        cluster.trainer("one", "trainer_svc", "--role", "worker") as (one, _),
        cluster.trainer("two", "trainer_svc", "--role", "worker") as (two, _),
    ):
        name = start_job(address)
        seen = until(address, name, "checkpoint_saved")
        lost = cluster.holder(name)
        assert lost in {one.pid, two.pid}
        os.kill(lost, signal.SIGKILL)
        with TrainerClient(address) as client:
            rest = list(client.watch_job(name, seen[-1].sequence))
    events = [*seen, *rest]
    check_one_history(events, cluster.store)
    resumed = [event.resumed.resumed_from_step for event in events if event.HasField("resumed")]
    assert len(resumed) == 1
    assert resumed[0] > 0


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "moment",
    [
        "running",
        "commit",
        *(pytest.param(each, marks=pytest.mark.long) for each in ("upload", "manifest", "success")),
    ],
)
def test_a_trainer_that_stood_still_past_its_lease_changes_nothing(
    cluster: Cluster, moment: str
) -> None:
    still = ("tests.acceptance.stopped_trainer", moment, "STOP")
    with cluster.trainer("still", *still) as (zombie, address):
        name = start_job(address, checkpoint_interval=1000)
        os.waitid(os.P_PID, zombie.pid, os.WSTOPPED | os.WNOWAIT)
        with cluster.trainer("next", "trainer_svc") as (_, other):
            events = watch(other, name)
            check_one_history(events, cluster.store)
            before = files(cluster.store)
            zombie.send_signal(signal.SIGCONT)
            zombie.send_signal(signal.SIGTERM)
            assert zombie.wait(60) == 0
            assert watch(other, name) == events
            assert files(cluster.store) == before


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", [3600, pytest.param(-3600, marks=pytest.mark.long)])
def test_a_trainer_whose_clock_is_an_hour_off_keeps_its_lease_and_takes_nobody_s(
    cluster: Cluster, seconds: int
) -> None:
    library = Path(sys.prefix) / "lib" / "libfaketimeMT.so.1"
    if not library.exists():
        pytest.skip("libfaketime is not there: tools/system_packages.sh fetches it")
    wrong = [
        "env",
        f"LD_PRELOAD={library}",
        f"FAKETIME={seconds:+}",
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
    ]
    with (
        # The worker's pulse beats every two seconds there.
        cluster.trainer("wrong", "trainer_svc", prefix=wrong, WORKER_SILENCE_SECONDS="24") as (
            _,
            address,
        ),
        cluster.trainer("right", "trainer_svc") as (_, other),
    ):
        name = start_job(address)
        events = watch(other, name)
        with TrainerClient(other) as client:
            job = client.get_job(name)
    check_one_history(events, cluster.store)
    assert not any(event.HasField("resumed") for event in events)
    now = time.time()
    for told in (job.create_time, job.start_time, job.end_time, *(event.time for event in events)):
        assert abs(told.seconds - now) < 1800


def files(store: Path) -> dict[str, bytes]:
    """Return what is published."""
    found = sorted((store / ACME / "adapters").rglob("*"))
    return {str(path): path.read_bytes() for path in found if path.is_file()}
