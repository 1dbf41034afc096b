"""A service's two ports, as its settings ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

from prometheus_client import CollectorRegistry

from tailorbird.reread import RereadFiles, RereadMetrics
from tailorbird.rpc.auth import TokenVerifier
from tailorbird.rpc.server import RpcServer
from tailorbird.rpc.tls import ServerCertificate
from tailorbird.settings import CommonSettings
from tailorbird.telemetry import HealthServer


@dataclass(frozen=True, slots=True)
class Edge:
    """gRPC, which listens once it is started, and plain HTTP, which answers already."""

    server: RpcServer
    health: HealthServer


def open_edge(
    settings: CommonSettings,
    registry: CollectorRegistry,
    services: Sequence[str],
    stack: AsyncExitStack,
) -> Edge:
    """Read tokens and certificate, now and whenever they change, and answer probes; see Edge.

    What is begun here ends with `stack`. Raises InvalidArgument for files that cannot be used, and
    FailedPrecondition (PORT_TAKEN).
    """
    metrics = RereadMetrics(registry)
    verifier = credentials = None
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
    return Edge(server, health)


def _reread(stack: AsyncExitStack, files: RereadFiles) -> None:
    files.start()
    stack.callback(files.stop)
