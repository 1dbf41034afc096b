"""deploy/k8s/examples: proxies of one's own, which hash by adapter over serving's pods."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tailorbird.client import ServingClient, chat_request
from tests.chart.helm import Object, profile_values, read_yaml, render
from tests.chart.kinds import NEWEST, OLDEST, is_built_in, problems
from tests.chart.pods import pods
from tests.integration.scripted_services import Script, serve

EXAMPLES = Path(__file__).parents[2] / "deploy" / "k8s" / "examples"
HEADER = "x-tailorbird-adapter"
_TOOLS = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"])
NGINX = shutil.which("nginx", path=_TOOLS)
needs_nginx = pytest.mark.skipif(NGINX is None, reason="there is no nginx")


def objects(name: str) -> list[Object]:
    return read_yaml((EXAMPLES / name).read_text())


def config(name: str, key: str) -> str:
    (found,) = (each for each in objects(name) if each["kind"] == "ConfigMap")
    return str(found["data"][key])


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.yaml")))
def test_an_api_server_takes_the_example(name: str) -> None:
    for document in objects(name):
        if is_built_in(document):
            assert problems(document, OLDEST) == problems(document, NEWEST) == []


@pytest.mark.parametrize("name", ["nginx.yaml", "envoy.yaml"])
def test_the_proxy_keeps_what_restricted_pods_must(name: str) -> None:
    (pod,) = pods(objects(name))
    container = pod.service
    assert pod.spec["securityContext"]["runAsNonRoot"]
    assert pod.spec["automountServiceAccountToken"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    stop = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert stop < pod.spec["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.yaml")))
def test_the_example_hashes_on_what_our_client_sends(name: str) -> None:
    spelt = HEADER if name != "nginx.yaml" else "$http_" + HEADER.replace("-", "_")
    assert spelt in (EXAMPLES / name).read_text()


def test_the_examples_name_what_the_chart_makes() -> None:
    release = render(profile_values("cpu"), release="tailorbird", namespace="tailorbird")
    (headless,) = (
        each
        for each in release.of_kind("Service")
        if each["metadata"]["name"].endswith("-serving-headless")
    )
    name, port = headless["metadata"]["name"], headless["spec"]["ports"][0]["port"]
    host = f"{name}.tailorbird.svc.cluster.local"
    assert f"server {host}:{port} resolve" in config("nginx.yaml", "nginx.conf")
    (cluster,) = read_yaml(config("envoy.yaml", "envoy.yaml"))[0]["static_resources"]["clusters"]
    (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    address = endpoint["endpoint"]["address"]["socket_address"]
    assert address == {"address": host, "port_value": port}
    assert (cluster["type"], cluster["lb_policy"]) == ("STRICT_DNS", "RING_HASH")
    (rule,) = objects("istio.yaml")
    assert rule["spec"]["host"] == host.replace("-headless", "")
    (policy,) = objects("envoy-gateway.yaml")
    assert policy["spec"]["targetRefs"][0]["name"] == "tailorbird"


@needs_nginx
def test_nginx_takes_its_configuration(tmp_path: Path) -> None:
    path = tmp_path / "nginx.conf"
    path.write_text(_runnable(tmp_path, [50052], 50053))
    done = _nginx(path, "-t")
    assert done.returncode == 0, done.stderr
    path.write_text(path.read_text().replace("consistent", "consistently"))
    assert _nginx(path, "-t").returncode != 0


@pytest.fixture
def replicas() -> Iterator[dict[int, Script]]:
    scripts = [Script(), Script()]
    started = [serve(script) for script in scripts]
    yield dict(zip((port for _, port in started), scripts, strict=True))
    for server, _ in started:
        server.stop(None).wait()


@needs_nginx
def test_an_adapters_requests_meet_on_one_replica(
    tmp_path: Path, replicas: dict[int, Script]
) -> None:
    """Through a real nginx: whoever asks, and whatever else is asked."""
    path = tmp_path / "nginx.conf"
    port = _free_port()
    path.write_text(_runnable(tmp_path, list(replicas), port))
    assert NGINX is not None
    process = subprocess.Popen([NGINX, "-p", str(tmp_path), "-c", str(path), "-g", "daemon off;"])
    try:
        with grpc.insecure_channel(f"localhost:{port}") as channel:
            grpc.channel_ready_future(channel).result(30)
        adapters = [f"tenants/acme/adapters/a-{number}" for number in range(12)]
        for _ in range(3):
            with ServingClient(f"localhost:{port}", "token") as client:
                for adapter in adapters:
                    client.generate(chat_request(adapter, "hello"))
    finally:
        process.terminate()
        process.wait(30)
    met = [{m[HEADER] for m in script.metadata} for script in replicas.values()]
    assert sum(len(script.requests) for script in replicas.values()) == 36
    assert all(met)
    assert not met[0] & met[1]


def _runnable(folder: Path, upstreams: list[int], port: int) -> str:
    """Return nginx.conf with addresses of this machine, and without what an older nginx lacks."""
    text = config("nginx.yaml", "nginx.conf")
    resolved = next(line.strip() for line in text.splitlines() if " resolve " in line)
    _, _, options = resolved.partition(" resolve ")
    servers = "\n".join(f"server 127.0.0.1:{each} {options}" for each in upstreams)
    changes: dict[str, Any] = {
        resolved: servers,
        "kube-dns.kube-system.svc.cluster.local": "127.0.0.1",
        "listen 50052 http2;": f"listen 127.0.0.1:{port} http2;",
        "listen [::]:50052 http2;": "",
        "listen 8080;": f"listen 127.0.0.1:{_free_port()};",
        "listen [::]:8080;": "",
        "worker_processes auto;": "worker_processes 1;",
        "/tmp/": f"{folder}/",
    }
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    user = "user root;\n" if os.geteuid() == 0 else ""
    return user + text


def _nginx(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert NGINX is not None
    command = [NGINX, "-p", str(path.parent), "-c", str(path), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
