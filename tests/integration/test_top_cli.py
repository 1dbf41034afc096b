"""`tailorbird top`: what real metrics on a real port, and the API, come to."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry
from rich.console import Console

from serving_svc.metrics import ServingMetrics, Snapshot
from tailorbird.cli.scrape import Reading, parsed
from tailorbird.errors import Unavailable
from tailorbird.telemetry import HealthServer
from tests.integration.scripted_services import VERSIONS, Script
from tests.integration.test_cli import Run, run
from trainer_svc.jobs.model import JobState
from trainer_svc.metrics import TrainerMetrics

__all__ = ["run"]


class Busy:
    """A replica with three requests in the engine and two that wait."""

    def snapshot(self) -> Snapshot:
        return Snapshot(
            model="demo", running=3, waiting=2, running_adapters=["tenants/acme/adapters/a"],
            waiting_adapters=[], loaded=[("tenants/acme/adapters/a", True)], slots=8,
            kv_usage=0.125,
        )  # fmt: skip


class Replicas:
    """A serving and a trainer, as far as their metrics go."""

    def __init__(self) -> None:
        registries = CollectorRegistry(), CollectorRegistry()
        self.serving = ServingMetrics(registries[0])
        self.serving.watch(Busy())
        self.serving.engine_up.set(1)
        self.serving.on_disk.set(4)
        self.trainer = TrainerMetrics(registries[1])
        self.trainer.workers.labels("demo").set(2)
        self.trainer.set_jobs({JobState.RUNNING: 1, JobState.QUEUED: 5, JobState.PAUSED: 0})
        self.trainer.worker_memory.labels("0").set(3 * 2**30)
        self.work(10)
        self.servers = [HealthServer("127.0.0.1", 0, each, lambda: True) for each in registries]
        for server in self.servers:
            server.start()

    @property
    def options(self) -> list[str]:
        return [
            word for server in self.servers for word in ("--metrics", f"127.0.0.1:{server.port}")
        ]

    def work(self, tokens: int) -> None:
        for kind in ("prompt", "completion"):
            self.serving.tokens.labels("acme", kind).inc(tokens)
        self.trainer.tokens.inc(tokens)
        self.trainer.steps.inc()


@pytest.fixture
def replicas() -> Iterator[Replicas]:
    replicas = Replicas()
    yield replicas
    for server in replicas.servers:
        server.stop()


def _rows(text: str) -> dict[str, list[str]]:
    """Return the first line of each table, by its first head."""
    lines = text.splitlines()
    return {
        line.split()[0]: lines[number + 1].split()
        for number, line in enumerate(lines)
        if line and line.split()[0].isupper()
    }


def test_each_replica_says_what_it_does(run: Run, replicas: Replicas) -> None:
    serving, trainer = (f"127.0.0.1:{server.port}" for server in replicas.servers)
    ran = run("top", *replicas.options, "--interval", "0")
    assert (ran.status, ran.err) == (0, "")
    rows = _rows(ran.out)
    assert rows["SERVING"] == [serving, "3", "2", "1/8", "4", "12.5%"]
    assert rows["TRAINER"] == [trainer, "2", "1", "running,", "5", "queued", "3.0", "GiB"]
    tenant, new = "support", VERSIONS[0].rpartition("/")[2]
    assert rows["REPLICA"] == ["serving-0", tenant, new, "engine", "2"]
    assert rows["JOB"] == ["0-a", "running"]


def test_rates_are_made_of_two_readings(
    run: Run, replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        replicas.work(500)

    monkeypatch.setattr("tailorbird.cli.top.time", SimpleNamespace(sleep=sleep))
    ran = run("top", *replicas.options, "--interval", "3", "-o", "json")
    found = json.loads(ran.out)
    assert waited == [3.0]
    (serving,), (trainer,) = found["serving"], found["trainer"]
    assert serving["tokens_per_second"] > 0
    assert trainer["tokens_per_second"] > trainer["steps_per_second"] > 0
    assert trainer["jobs"] == {"running": 1, "queued": 5}
    assert found["residency"][1]["refused"] == "NOT_FINITE"
    assert {job["state"] for job in found["jobs"]} == {
        "running", "evaluating", "publishing", "preparing"
    }  # fmt: skip


def test_what_does_not_answer_is_said_beside_what_does(
    run: Run, script: Script, replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.error = Unavailable("starting")
    asked = ("top", "--interval", "0", *replicas.options[:2])
    ran = run(*asked, "--metrics", "127.0.0.1:1")
    assert ran.status == 0
    assert "metrics of 127.0.0.1:1: error: http://127.0.0.1:1/metrics does not answer" in ran.out
    assert "jobs at work: error: UNAVAILABLE starting" in ran.out
    assert "SERVING" in ran.out
    monkeypatch.delenv("TAILORBIRD_TENANT")
    assert "jobs at work" not in run(*asked).out
    assert run("top", "--interval", "0", "--metrics", "127.0.0.1:1").status == 8


@pytest.mark.parametrize("address", ["localhost", "localhost:x", ":9091", "a:0", "a:70000"])
def test_an_address_is_a_host_and_a_port(run: Run, script: Script, address: str) -> None:
    ran = run("top", "--metrics", address)
    assert (ran.status, script.requests) == (2, [])
    assert ran.err.startswith(f"error: --metrics: '{address}' is not host:port")


def test_a_terminal_shows_it_anew_until_ctrl_c(
    run: Run, replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    monkeypatch.setattr("tailorbird.cli.top.out", terminal)
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("tailorbird.cli.top.time", SimpleNamespace(sleep=sleep))
    ran = run("top", *replicas.options, "--interval", "0")
    assert isinstance(terminal.file, io.StringIO)
    assert (ran.status, waits) == (0, [0.1, 0.1])
    assert terminal.file.getvalue().count("SERVING") == 2


def test_what_is_no_sample_is_passed_over() -> None:
    text = '# HELP a b\na{x="1",y="\\"}"} 2\na{x="2",y=""} 3\nb NaN 17\nc\nd x\n\n'
    found = parsed(text)
    assert found["a"] == [({"x": "1", "y": '\\"}'}, 2.0), ({"x": "2", "y": ""}, 3.0)]
    assert found.keys() == {"a", "b"}
    reading = Reading(10.0, found)
    assert (reading.total("a"), reading.total("a", x="2"), reading.total("z")) == (5.0, 3.0, None)


def test_a_rate_is_told_of_a_counter_that_grew() -> None:
    def at(seconds: float, value: float) -> Reading:
        return Reading(seconds, {"a": [({}, value)]})

    assert at(12, 30).rate(at(10, 10), "a") == 10
    assert at(12, 5).rate(at(10, 10), "a") is None
    assert at(12, 5).rate(None, "a") is None
    assert at(12, 5).rate(at(10, 1), "b") is None
