"""Both services, started with what the chart renders for them."""

from __future__ import annotations

import hashlib
import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tailorbird.base_model import load_base_model
from tests.certificates import Authority
from tests.chart.helm import Rendered, Values, merged, profile_values, render
from tests.chart.pod_process import PodProcess, free_ports, make_folders
from tests.chart.pods import Pod, both
from tests.integration.serving.world import make_base

COMMANDS = {"trainer": "trainer_svc", "serving": "serving_svc"}
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
WRONG = "sha256:" + "0" * 64


@dataclass(frozen=True)
class Cluster:
    """What the CPU profile finds where it is installed: a base, Secrets, and free ports."""

    root: Path
    values: Values
    rendered: Rendered
    authority: Authority
    secrets: dict[str, dict[str, bytes]]

    def start(
        self, pod: Pod, node: str, *command: str, rendered: Rendered | None = None
    ) -> PodProcess:
        """Start the pod's container, with folders of its own but for the claims that pods share."""
        root = self.root / node
        if not root.exists():
            root.mkdir()
            for claim in ("base-model", "store"):
                (root / claim).symlink_to(self.root / claim)
            make_folders(pod, root, self.secrets)
        return PodProcess(
            rendered or self.rendered, pod, root, command or (COMMANDS[pod.component],)
        )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    root = tmp_path_factory.mktemp("pods")
    make_base(root / "base-model")
    (root / "store").mkdir()
    base = load_base_model(str(root / "base-model"), root)
    ports = free_ports(6)
    values = merged(
        profile_values("cpu"),
        {
            "baseModel": {
                "name": "tiny",
                "digest": base.digest,
                "claim": {"existingClaim": "weights"},
                "huggingFace": {"id": ""},
            },
            "trainer": {"ports": {"grpc": ports[0], "http": ports[1], "openai": ports[4]}},
            "serving": {
                "ports": {"grpc": ports[2], "http": ports[3], "openai": ports[5]},
                # A tiny model's context, and as few slots as are quick.
                "config": {"maxModelLen": None, "adapterSlots": 2, "dtype": "float32"},
                "shutdown": {"drainDelaySeconds": 0},
            },
        },
    )
    authority = Authority()
    pair = authority.pair()
    secrets = {
        "tailorbird-tokens": {"tokens.json": _tokens("secret-token")},
        "tailorbird-tls": {"tls.crt": pair.certificate, "tls.key": pair.key},
    }
    return Cluster(root, values, render(values), authority, secrets)


def _tokens(token: str) -> bytes:
    digest = hashlib.sha256(token.encode()).hexdigest()
    entry = {"sha256": digest, "subject": "acme", "tenants": ["acme"]}
    return json.dumps({"tokens": [entry]}).encode()


@pytest.fixture(scope="module", params=sorted(COMMANDS))
def running(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[tuple[Pod, PodProcess]]:
    pod = both(cluster.rendered)[request.param]
    process = cluster.start(pod, pod.component)
    try:
        process.wait_until_ready()
        yield pod, process
    finally:
        status = process.close()
    assert status == 0, "".join(process.lines)[-4000:]


def test_it_listens_where_the_pod_says(running: tuple[Pod, PodProcess]) -> None:
    pod, process = running

    assert process.listening() == {each["containerPort"] for each in pod.service["ports"]}


def test_its_services_lead_to_where_it_listens(
    running: tuple[Pod, PodProcess], cluster: Cluster
) -> None:
    pod, process = running
    ports = {each["name"]: each["containerPort"] for each in pod.service["ports"]}
    for service in cluster.rendered.of_kind("Service"):
        if service["metadata"]["labels"]["app.kubernetes.io/component"] == pod.component:
            targets = {ports[each["targetPort"]] for each in service["spec"]["ports"]}
            assert targets <= process.listening()


@pytest.mark.parametrize("name", PROBES)
def test_its_probes_are_answered(running: tuple[Pod, PodProcess], name: str) -> None:
    pod, _ = running
    http = pod.service[name]["httpGet"]
    ports = {each["name"]: each["containerPort"] for each in pod.service["ports"]}

    with urllib.request.urlopen(f"http://127.0.0.1:{ports[http['port']]}{http['path']}") as answer:
        assert answer.status == 200


def test_its_metrics_are_where_the_pod_monitor_looks(running: tuple[Pod, PodProcess]) -> None:
    pod, _ = running
    (port,) = (each["containerPort"] for each in pod.service["ports"] if each["name"] == "http")

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        assert f"tailorbird_{pod.component}_" in answer.read().decode()


def test_it_speaks_tls_with_the_secret_s_certificate(
    running: tuple[Pod, PodProcess], cluster: Cluster
) -> None:
    pod, _ = running
    (port,) = (each["containerPort"] for each in pod.service["ports"] if each["name"] == "grpc")
    credentials = grpc.ssl_channel_credentials(cluster.authority.pem)

    with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=60)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_it_runs_with_the_settings_that_were_rendered(running: tuple[Pod, PodProcess]) -> None:
    _, process = running
    read = next(json.loads(line) for line in process.lines if '"event": "settings"' in line)
    secret = {"database_url"}

    for name, value in process.variables.items():
        key = name.removeprefix("TAILORBIRD_").lower()
        if name.startswith("TAILORBIRD_") and key not in secret | {"values_keys"}:
            assert _same(read[key], value), key


def _same(read: Any, rendered: str) -> bool:
    if isinstance(read, bool):
        return str(read).lower() == rendered
    if isinstance(read, int | float):
        return float(rendered) == read
    return bool(read == rendered)


def test_the_init_step_finds_the_digest(cluster: Cluster) -> None:
    trainer = both(cluster.rendered)["trainer"]
    (step,) = trainer.spec["initContainers"]
    assert step["command"][:4] == ["/usr/bin/tini", "--", "python", "-m"]

    good = cluster.start(trainer, "new", *step["command"][4:])

    assert good.wait() == 0, good.lines
    good.close()


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("TAILORBIRD_BASE_MODEL_DIGEST", "baseModel.digest"),
        ("TAILORBIRD_TOKENS_FILE", "auth.existingSecret"),
        ("TAILORBIRD_TLS_KEY_FILE", "tls.existingSecret"),
    ],
)
def test_a_start_that_fails_names_the_value_s_key(cluster: Cluster, setting: str, key: str) -> None:
    """A base that is another, and Secrets without what they should hold."""
    wrong = WRONG if setting.endswith("DIGEST") else str(cluster.root / "gone")
    grpc_port, http_port = free_ports(2)
    ports = {"trainer": {"ports": {"grpc": grpc_port, "http": http_port}}}
    rendered = render(merged(cluster.values, ports))
    data = rendered.one("ConfigMap", "-trainer")["data"]
    data[setting] = wrong
    process = cluster.start(both(rendered)["trainer"], "wrong", rendered=rendered)

    assert process.wait() != 0

    process.close()
    (line,) = (json.loads(each) for each in process.lines if '"level": "critical"' in each)
    assert line["error"].startswith(f"{setting} ({key} in values.yaml): ")
