"""A gRPC server of our kind that starts child processes all the time; prints its port."""

from __future__ import annotations

# First, as in the services' entry points: it settles how gRPC treats forks.
import tailorbird.service  # noqa: F401  # isort: skip

import asyncio
import contextlib

import uvloop
from prometheus_client import CollectorRegistry

from tailorbird.rpc.server import RpcServer, stop_signal


async def main() -> None:
    """Fork until SIGTERM."""
    stop = stop_signal()
    server = RpcServer("127.0.0.1", 0, None, CollectorRegistry(), [])
    await server.start()
    await server.set_ready(True)
    print(server.port, flush=True)  # noqa: T201
    while not stop.is_set():
        process = await asyncio.create_subprocess_exec("true")
        await process.wait()
    with contextlib.suppress(asyncio.CancelledError):
        await server.stop(0)


if __name__ == "__main__":
    uvloop.run(main())
