"""When a server says that it takes calls."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from tailorbird.rpc.server import RpcServer


async def test_a_server_that_stops_is_not_made_ready_again() -> None:
    server = RpcServer("127.0.0.1", 0, None, CollectorRegistry(), ["a.Service"])
    await server.start()
    await server.set_ready(True)
    assert server.ready
    await server.stop(0)
    # As when an engine that was being restarted comes back meanwhile.
    await server.set_ready(True)
    assert not server.ready
