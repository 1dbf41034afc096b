"""The pods of several trainers, started with what the chart renders for them, on one PostgreSQL."""

from __future__ import annotations

import hashlib
import json
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tailorbird.base_model import load_base_model
from tests.certificates import Authority
from tests.chart.environment import environment
from tests.chart.helm import Rendered, merged, profile_values, render
from tests.chart.pod_process import PodProcess, free_ports, make_folders
from tests.chart.pods import Pod, both, pods
from tests.contract.conftest import postgresql_server, postgresql_url
from tests.integration.serving.world import make_base

__all__ = ["postgresql_server", "postgresql_url"]
API, WORKER = "trainer-api", "trainer-worker"


@dataclass(frozen=True)
class Node:
    """A machine without a GPU, where the pods of the profile `split` start."""

    root: Path
    rendered: Rendered
    secrets: dict[str, dict[str, bytes]]
    url: str

    def start(self, pod: Pod, *command: str) -> PodProcess:
        root = self.root / pod.component
        root.mkdir()
        (root / "base-model").symlink_to(self.root / "base-model")
        make_folders(pod, root, self.secrets)
        known = {"tailorbird-database": {"url": self.url}, "tailorbird-object-store": {}}
        return PodProcess(self.rendered, pod, root, ("trainer_svc", *command), known)


@pytest.fixture
def node(tmp_path: Path, postgresql_url: str) -> Node:
    make_base(tmp_path / "base-model" / "llama-3.1-8b-instruct")
    base = load_base_model(str(tmp_path / "base-model" / "llama-3.1-8b-instruct"), tmp_path)
    ports = free_ports(2)
    values = merged(
        profile_values("split"),
        {
            "baseModel": {"digest": base.digest},
            "trainer": {"ports": {"grpc": ports[0], "http": ports[1]}},
        },
    )
    rendered = render(values)
    for component in (API, WORKER):
        data = rendered.one("ConfigMap", f"-{component}")["data"]
        data["TAILORBIRD_OBJECT_STORE"] = (tmp_path / "store").as_uri()
    digest = hashlib.sha256(b"secret").hexdigest()
    entry = {"sha256": digest, "subject": "acme", "tenants": ["acme"]}
    pair = Authority().pair()
    secrets = {
        "tailorbird-tokens": {"tokens.json": json.dumps({"tokens": [entry]}).encode()},
        "tailorbird-tls": {"tls.crt": pair.certificate, "tls.key": pair.key},
    }
    return Node(tmp_path, rendered, secrets, postgresql_url)


def said(process: PodProcess, event: str) -> list[Any]:
    lines = [json.loads(line) for line in process.lines if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def http(pod: Pod, path: str) -> str:
    (port,) = (each["containerPort"] for each in pod.service["ports"] if each["name"] == "http")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as answer:
        return str(answer.read().decode())


def test_the_migration_does_its_work_and_ends(node: Node) -> None:
    (job,) = (each for each in pods(node.rendered.hooks) if each.component == "migration")

    process = node.start(job, *job.service["args"])

    assert process.wait() == 0, process.lines
    process.close()
    (line,) = said(process, "job store migrated")
    assert line["before"] is None
    assert line["after"]


@pytest.mark.timeout(300)
def test_what_answers_starts_without_a_gpu_and_tells_of_the_jobs(node: Node) -> None:
    pod = both(node.rendered)[API]
    assert environment(node.rendered, pod)["TAILORBIRD_DEVICE"] == "cuda"

    process = node.start(pod)
    try:
        process.wait_until_ready()

        assert process.listening() == {each["containerPort"] for each in pod.service["ports"]}
        (ready,) = said(process, "trainer ready")
        assert (ready["role"], ready["device"]) == ("api", "cuda")
        # What KEDA asks for, soon after the start.
        while 'tailorbird_trainer_jobs{state="QUEUED"} 0.0' not in http(pod, "/metrics"):
            time.sleep(0.2)
    finally:
        status = process.close()
    assert status == 0


@pytest.mark.timeout(300)
def test_what_trains_opens_the_port_of_its_probes_alone(node: Node) -> None:
    pod = both(node.rendered)[WORKER]
    node.rendered.one("ConfigMap", f"-{WORKER}")["data"]["TAILORBIRD_DEVICE"] = "cpu"

    process = node.start(pod)
    try:
        process.wait_until_ready()

        (port,) = (each["containerPort"] for each in pod.service["ports"])
        assert process.listening() == {port}
        assert (said(process, "trainer ready")[0]["role"]) == "worker"
        for name in ("startupProbe", "livenessProbe", "readinessProbe"):
            http(pod, pod.service[name]["httpGet"]["path"])
    finally:
        status = process.close()
    assert status == 0
