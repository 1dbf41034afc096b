"""What a service's settings make of its two ports."""

from __future__ import annotations

import asyncio
import urllib.request
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from tailorbird.address import authority
from tailorbird.cli.tokens import add_token
from tailorbird.failed_start import wrong_settings
from tailorbird.rpc.edge import open_edge
from tests.certificates import Authority
from trainer_svc.settings import TrainerSettings


def settings(**more: Any) -> TrainerSettings:
    return TrainerSettings(**{"base_model": "demo", "port": 0, "metrics_port": 0, **more})


def _body(url: str) -> str:
    with urllib.request.urlopen(url) as answer:
        return str(answer.read().decode())


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
async def test_both_ports_speak_ipv6(tmp_path: Path, host: str) -> None:
    add_token(tmp_path / "tokens.json", "billing", ["acme"])
    asked = settings(host=host, tokens_file=tmp_path / "tokens.json")
    async with AsyncExitStack() as stack:
        edge = open_edge(asked, CollectorRegistry(), [], stack)
        await edge.server.start()
        stack.push_async_callback(edge.server.stop, 0)
        for near in ["::1"] + ["127.0.0.1"] * (host == "::"):
            url = f"http://{authority(near, edge.health.port)}/livez"
            assert await asyncio.to_thread(_body, url) == "ok\n"
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
