"""What a service's settings make of its ports."""

from __future__ import annotations

import asyncio
import socket
import ssl
import urllib.request
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tailorbird.address import authority
from tailorbird.cli.tokens import add_token
from tailorbird.edge import open_edge
from tailorbird.errors import FailedPrecondition
from tailorbird.failed_start import wrong_settings
from tests.certificates import Authority
from trainer_svc.settings import TrainerSettings


def settings(**more: Any) -> TrainerSettings:
    return TrainerSettings(**{"base_model": "demo", "port": 0, "metrics_port": 0, **more})


def _body(url: str) -> str:
    with urllib.request.urlopen(url) as answer:
        return str(answer.read().decode())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


async def test_http_takes_the_same_tokens_and_certificate(tmp_path: Path) -> None:
    signer = Authority()
    certificate, key = signer.pair().write(tmp_path / "tls")
    token = add_token(tmp_path / "tokens.json", "billing", ["acme"])
    port = free_port()
    asked = settings(
        tls_certificate_file=certificate,
        tls_key_file=key,
        tokens_file=tmp_path / "tokens.json",
        http_port=port,
    )
    trusting = ssl.create_default_context(cadata=signer.pem.decode())
    async with (
        AsyncExitStack() as stack,
        httpx.AsyncClient(verify=trusting, trust_env=False, timeout=20) as client,
    ):
        edge = open_edge(asked, CollectorRegistry(), [], stack)
        assert edge.http is not None
        await edge.start()
        stack.push_async_callback(edge.stop, 0)
        url = f"https://localhost:{port}/v1/models"
        assert (await client.get(url)).status_code == 401
        bearer = {"authorization": f"Bearer {token}"}
        assert (await client.get(url, headers=bearer)).status_code == 404
        assert edge.http.port == port
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(url.replace("https", "http"))


async def test_nothing_else_listens_where_no_http_is_asked_for() -> None:
    async with AsyncExitStack() as stack:
        edge = open_edge(settings(), CollectorRegistry(), [], stack)
        assert edge.http is None


async def test_both_stop_with_their_calls_in_flight() -> None:
    entered, released = asyncio.Event(), asyncio.Event()

    async def slow(_: Request) -> Response:
        entered.set()
        await released.wait()
        return PlainTextResponse("done")

    async with (
        AsyncExitStack() as stack,
        httpx.AsyncClient(trust_env=False, timeout=20) as client,
    ):
        edge = open_edge(settings(http_port=free_port()), CollectorRegistry(), [], stack)
        assert edge.http is not None
        edge.http.add([Route("/slow", slow)])
        await edge.start()
        await edge.server.set_ready(True)
        waiting = asyncio.create_task(client.get(f"http://127.0.0.1:{edge.http.port}/slow"))
        await entered.wait()
        stopping = asyncio.create_task(edge.stop(600))
        await asyncio.sleep(0)
        assert not edge.server.ready
        released.set()
        assert (await waiting).text == "done"
        await stopping
        with pytest.raises(httpx.ConnectError):
            await client.get(f"http://127.0.0.1:{edge.http.port}/slow")


async def test_without_its_extra_http_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tailorbird.edge.find_spec", lambda _: None)
    async with AsyncExitStack() as stack:
        with pytest.raises(FailedPrecondition, match=r"tailorbird\[http\]") as caught:
            open_edge(settings(http_port=free_port()), CollectorRegistry(), [], stack)
    assert caught.value.metadata["setting"] == "http_port"


@pytest.mark.parametrize(("name", "other"), [("port", "http_port"), ("metrics_port", "http_port")])
def test_each_port_is_its_own(name: str, other: str) -> None:
    with pytest.raises(ValidationError, match=f"{other}: 7001 is TAILORBIRD_{name.upper()} too"):
        settings(**{name: 7001, other: 7001})


async def test_probes_stay_plain_beside_tls_and_tokens(tmp_path: Path) -> None:
    signer = Authority()
    certificate, key = signer.pair().write(tmp_path / "tls")
    add_token(tmp_path / "tokens.json", "billing", ["acme"])
    registry = CollectorRegistry()
    asked = settings(
        tls_certificate_file=certificate, tls_key_file=key, tokens_file=tmp_path / "tokens.json"
    )
    async with AsyncExitStack() as stack:
        edge = open_edge(asked, registry, [], stack)
        await edge.server.start()
        stack.push_async_callback(edge.server.stop, 0)
        url = f"http://127.0.0.1:{edge.health.port}/metrics"
        text = await asyncio.to_thread(_body, url)
        assert 'tailorbird_file_refused{file="tokens"} 0.0' in text
        assert 'tailorbird_file_refused{file="tls"} 0.0' in text
        assert "tailorbird_tls_certificate_expiry_timestamp_seconds" in text
        credentials = grpc.ssl_channel_credentials(signer.pem)
        target = f"localhost:{edge.server.port}"
        async with grpc.aio.secure_channel(target, credentials) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            await health.Check(health_pb2.HealthCheckRequest())


@pytest.mark.parametrize("host", ["::1", "::"])
async def test_every_port_speaks_ipv6(tmp_path: Path, host: str) -> None:
    add_token(tmp_path / "tokens.json", "billing", ["acme"])
    asked = settings(host=host, tokens_file=tmp_path / "tokens.json", http_port=free_port())
    async with (
        AsyncExitStack() as stack,
        httpx.AsyncClient(trust_env=False, timeout=20) as client,
    ):
        edge = open_edge(asked, CollectorRegistry(), [], stack)
        await edge.start()
        stack.push_async_callback(edge.stop, 0)
        for near in ["::1"] + ["127.0.0.1"] * (host == "::"):
            url = f"http://{authority(near, edge.health.port)}/livez"
            assert await asyncio.to_thread(_body, url) == "ok\n"
            models = f"http://{authority(near, asked.http_port)}/v1/models"
            assert (await client.get(models)).status_code == 401
            target = authority(near, edge.server.port)
            async with grpc.aio.insecure_channel(target) as channel:
                health: Any = health_pb2_grpc.HealthStub(channel)
                await health.Check(health_pb2.HealthCheckRequest(), timeout=20)


@pytest.mark.parametrize("given", ["tls_certificate_file", "tls_key_file"])
def test_tls_needs_both_files(given: str) -> None:
    (missing,) = {"tls_certificate_file", "tls_key_file"} - {given}
    with pytest.raises(ValidationError, match=f"{missing}: it is not set, but TAILORBIRD"):
        settings(**{given: "x.pem"})


@pytest.mark.parametrize(
    "url",
    [
        "s3://me:secret@adapters",
        "az://adapters/x?sig=secret",
        "https://me:secret@store.example/adapters",
    ],
)
def test_a_store_takes_no_credentials_from_its_url(url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        settings(object_store=url)
    ((setting, problem),) = wrong_settings(caught.value)
    assert setting == "object_store"
    assert "secret" not in problem


def test_a_folder_of_any_name_is_a_store(tmp_path: Path) -> None:
    url = (tmp_path / "who@where?").as_uri()
    assert settings(object_store=url).object_store == url
