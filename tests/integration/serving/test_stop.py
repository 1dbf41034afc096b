"""SIGTERM. The last file by name: it stops the process that the others share."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio

from tailorbird.names import AdapterName
from tailorbird.serving.v1 import inference_service_pb2 as pb
from tests.integration.serving.calls import (
    LONG,
    ask,
)
from tests.integration.serving.process import Client, ServingProcess, refusal
from tests.integration.serving.world import (
    World,
)


async def test_sigterm_lets_what_is_under_way_end(
    serving: ServingProcess, world: World, client: Client, adapter: AdapterName
) -> None:
    await world.publish_routed(adapter)
    stream = client.stream(ask(adapter, sampling=LONG))
    pieces = aiter(stream)
    await anext(pieces)
    serving.terminate()
    rest = [piece async for piece in pieces]
    assert rest[-1].finish_reason == pb.FINISH_REASON_LENGTH
    assert await asyncio.to_thread(serving.wait) == 0
    code, _, _ = await refusal(client.generate(ask(adapter)))
    assert code == grpc.StatusCode.UNAVAILABLE
