"""Calls go on while a service starts its workers: gRPC's own fork handlers would break some."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

CALLS = 600


def check(address: str) -> int:
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        return int(health.Check(health_pb2.HealthCheckRequest(), timeout=20).status)


def test_calls_that_arrive_while_a_child_is_started_do_not_fail() -> None:
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.forking_server"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        address = f"127.0.0.1:{int(server.stdout.readline())}"
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(check, [address] * CALLS))
        assert set(answers) == {health_pb2.HealthCheckResponse.SERVING}
    finally:
        server.terminate()
        server.communicate(timeout=30)
