"""A target: one server, and the load child that talks to it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

from bench.serving.client_peer import BASE_NAME
from bench.serving.environment import common_environment
from bench.serving.plan import CellResult, Plan
from bench.serving.processes import LineChild, Process
from bench.serving.servers import HOST, Folders, Ours, Peer
from tailorbird.client import ServingClient

_CHILD = ("-m", "bench.serving.child")
_CHILD_START_SECONDS = 300.0
_GRACE_SECONDS = 30.0


class Server(Protocol):
    """What a target needs of its server."""

    process: Process

    def wait_until_ready(self) -> None:
        """Return when it takes requests."""


class Target:
    """What a cell is run against. Starting takes long: wait for it once all are started."""

    def __init__(self, name: str, child: LineChild, server: Server | None) -> None:
        self.name = name
        self._child = child
        self._server = server

    def wait_until_ready(self) -> None:
        """Return when a cell can be run; BenchFailed if a process dies or takes too long."""
        if self._server is not None:
            self._server.wait_until_ready()
        self._child.receive(_CHILD_START_SECONDS)

    def run(self, plan: Plan) -> CellResult:
        """Run one cell; BenchFailed if a process dies or it takes too long."""
        others = [self._server.process] if self._server else []
        pid = others[0].pid if others else 0
        self._child.send(replace(plan, server_pid=pid).to_json())
        return CellResult.from_told(
            self._child.receive(plan.limit_seconds + _GRACE_SECONDS, others)
        )

    @property
    def root_pid(self) -> int:
        """Root of the server's process tree."""
        return self._server.process.pid if self._server else self._child.process.pid


@contextmanager
def ours(
    folders: Folders, name: str, slots: int, max_lora_rank: int | None = None
) -> Iterator[tuple[Target, Ours]]:
    """Run our service, with its load child, for the length of the block."""
    server = Ours(folders, name, slots, max_lora_rank)
    try:
        with grpc_child(folders, name, server) as child:
            yield Target(name, child, server), server
    finally:
        server.process.stop()


@contextmanager
def peer(
    folders: Folders,
    name: str,
    slots: int,
    tenants: Sequence[str],
    max_lora_rank: int | None = None,
) -> Iterator[Target]:
    """Run vLLM's server, with the adapters of `tenants` loaded, for the length of the block."""
    server = Peer(folders, name, slots, tenants, max_lora_rank)
    try:
        with openai_child(folders, name, server.port, BASE_NAME, "") as child:
            yield Target(name, child, server)
    finally:
        server.process.stop()


@contextmanager
def ceiling(folders: Folders, slots: int, max_lora_rank: int) -> Iterator[Target]:
    """Run the engine without a server for the length of the block."""
    told = {
        "kind": "ceiling",
        "base": str(folders.base),
        "adapters": str(folders.adapters),
        "slots": slots,
        "max_lora_rank": max_lora_rank,
    }
    with _child(folders, "ceiling", told, common_environment()) as child:
        yield Target("ceiling", child, None)


def served_rank_cap(server: Ours) -> int:
    """Return the largest rank that our server takes."""
    with ServingClient(server.address, server.token) as client:
        return client.server_info().max_lora_rank


@contextmanager
def grpc_child(folders: Folders, name: str, server: Ours) -> Iterator[LineChild]:
    """Run a load child that asks our server over gRPC for the length of the block."""
    told = {"kind": "ours", "address": server.address, "token": server.token}
    with _child(folders, name, told) as child:
        yield child


@contextmanager
def openai_child(
    folders: Folders, name: str, port: int, base: str, token: str
) -> Iterator[LineChild]:
    """Run a load child that speaks OpenAI's API to `port` for the length of the block."""
    told = {"kind": "peer", "host": HOST, "port": port, "base": base, "token": token}
    with _child(folders, name, told) as child:
        yield child


@contextmanager
def _child(
    folders: Folders, name: str, told: dict[str, Any], environment: dict[str, str] | None = None
) -> Iterator[LineChild]:
    # A load child gets no preloads: it is the caller's side, the same for all.
    plain = {key: value for key, value in common_environment().items() if key != "LD_PRELOAD"}
    log = folders.log(f"{name}-load")
    child = LineChild(
        Process(f"{name}'s load child", _CHILD, environment or plain, log, piped=True)
    )
    try:
        child.send(json.dumps(told))
        yield child
    finally:
        child.stop()


def say(text: str) -> None:
    """Tell a person how far it is."""
    print(text, file=sys.stderr, flush=True)
