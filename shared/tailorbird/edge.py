"""A service's ports, as its settings ask for them, and the order in which they stop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from tailorbird.errors import FailedPrecondition
from tailorbird.reread import RereadFiles, RereadMetrics
from tailorbird.rpc.auth import TokenVerifier
from tailorbird.rpc.server import RpcServer
from tailorbird.rpc.tls import ServerCertificate
from tailorbird.settings import CommonSettings
from tailorbird.telemetry import HealthServer

if TYPE_CHECKING:
    from tailorbird.http.server import HttpServer


@dataclass(frozen=True, slots=True)
class Edge:
    """gRPC and HTTP, which listen once they are started, and probes, which are answered already."""

    server: RpcServer
    http: HttpServer | None
    """None where the settings ask for no HTTP."""
    health: HealthServer

    async def start(self) -> None:
        """Listen. FailedPrecondition (PORT_TAKEN) if a port is taken."""
        await self.server.start()
        if self.http is not None:
            await self.http.start()

    async def stop(self, grace: float, *, delay: float = 0.0) -> None:
        """Stop both as RpcServer.stop says: unready, `delay` later closed, `grace` to end."""
        await self.server.leave(delay)
        async with asyncio.TaskGroup() as stopping:
            stopping.create_task(self.server.end(grace))
            if self.http is not None:
                stopping.create_task(self.http.stop(grace))


def open_edge(
    settings: CommonSettings,
    registry: CollectorRegistry,
    services: Sequence[str],
    stack: AsyncExitStack,
) -> Edge:
    """Read tokens and certificate, now and whenever they change, and answer probes; see Edge.

    What is begun here ends with `stack`. Raises InvalidArgument for files that cannot be used, and
    FailedPrecondition (PORT_TAKEN, EXTRA_MISSING).
    """
    metrics = RereadMetrics(registry)
    verifier = credentials = pair = None
    if settings.tokens_file is not None:
        verifier = TokenVerifier({})
        read = partial(verifier.read, settings.tokens_file)
        _reread(stack, RereadFiles("tokens", [settings.tokens_file], read, metrics))
    if settings.tls_certificate_file is not None and settings.tls_key_file is not None:
        pair = ServerCertificate(settings.tls_certificate_file, settings.tls_key_file, registry)
        _reread(stack, RereadFiles("tls", pair.paths, pair.read, metrics))
        credentials = pair.credentials()
    server = RpcServer(
        settings.host, settings.port, verifier, registry, services, credentials=credentials
    )
    health = HealthServer(
        settings.host, settings.metrics_port, registry, ready=lambda: server.ready
    )
    health.start()
    stack.callback(health.stop)
    return Edge(server, _http(settings, verifier, registry, pair), health)


def _http(
    settings: CommonSettings,
    verifier: TokenVerifier | None,
    registry: CollectorRegistry,
    pair: ServerCertificate | None,
) -> HttpServer | None:
    if not settings.http_port:
        return None
    if find_spec("uvicorn") is None or find_spec("starlette") is None:
        raise FailedPrecondition(
            "HTTP needs the extra `http`, which is not installed: pip install 'tailorbird[http]'",
            reason="EXTRA_MISSING",
            setting="http_port",
        )
    from tailorbird.http.server import HttpServer

    tls = None if pair is None else pair.context()
    return HttpServer(settings.host, settings.http_port, verifier, registry, tls)


def _reread(stack: AsyncExitStack, files: RereadFiles) -> None:
    files.start()
    stack.callback(files.stop)
