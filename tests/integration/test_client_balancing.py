"""Two servers behind one client that balances by itself, as with a headless Service.

A server that says NOT_SERVING to the client's health watch, and then goes on taking calls for a
while, can be stopped without a call being lost or made again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from tailorbird.client import AsyncServingClient
from tailorbird.rpc.server import RpcServer
from tailorbird.serving.v1 import inference_service_pb2 as pb
from tailorbird.serving.v1 import inference_service_pb2_grpc as pb_grpc

SERVICE = "tailorbird.serving.v1.InferenceService"
DELAY = 1.0


class Replica(pb_grpc.InferenceServiceServicer):
    """Answers with its name, a moment after it was asked."""

    def __init__(self, name: str, port: int = 0) -> None:
        self.name = name
        self.server = RpcServer("127.0.0.1", port, None, CollectorRegistry(), [SERVICE])
        pb_grpc.add_InferenceServiceServicer_to_server(self, self.server.grpc)

    async def start(self) -> Replica:
        await self.server.start()
        await self.server.set_ready(True)
        return self

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> pb.GenerateResponse:
        await asyncio.sleep(0.01)
        return pb.GenerateResponse(text=self.name)

    def StreamGenerate(self, request: Any, context: Any) -> Any:
        return context.abort(grpc.StatusCode.UNIMPLEMENTED, "this test calls Generate alone")

    async def RecordFeedback(self, request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this test calls Generate alone")

    async def GetServerInfo(self, request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this test calls Generate alone")


class Callers:
    """Calls without pause; `answers` counts who answered, and `failures` keeps every error."""

    def __init__(self, stub: Any) -> None:
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self._stub = stub
        self._answered = asyncio.Condition()

    async def call(self) -> None:
        while True:
            try:
                answer = await self._stub.Generate(pb.GenerateRequest(), timeout=60)
            except grpc.aio.AioRpcError as error:
                self.failures.append(str(error))
                return
            async with self._answered:
                self.answers[answer.text] += 1
                self._answered.notify_all()

    async def until(self, *names: str) -> None:
        """Return when each of `names` has answered from now on, or a call has failed."""
        before = self.answers.copy()
        async with self._answered:
            await self._answered.wait_for(
                lambda: self.failures or all(self.answers[name] > before[name] for name in names)
            )


async def test_one_server_after_the_other_is_replaced_and_no_call_is_lost() -> None:
    first, second = await Replica("first").start(), await Replica("second").start()
    target = f"ipv4:127.0.0.1:{first.server.port},127.0.0.1:{second.server.port}"
    # Not even a call that no server has seen is made again: the stub is the generated one.
    async with AsyncServingClient(target, plaintext=True) as client:
        callers = Callers(client.stub)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(callers.call()) for _ in range(8)]
            await callers.until("first", "second")

            await first.server.stop(60, delay=DELAY)
            await callers.until("second")
            third = await Replica("third", port=first.server.port).start()
            await callers.until("third")
            await second.server.stop(60, delay=DELAY)
            await callers.until("third")

            for task in tasks:
                task.cancel()
        await third.server.stop(0)
    assert callers.failures == []


async def test_a_replica_that_says_it_is_not_serving_gets_no_calls() -> None:
    ready, starting = await Replica("ready").start(), await Replica("starting").start()
    await starting.server.set_ready(False)
    target = f"ipv4:127.0.0.1:{starting.server.port},127.0.0.1:{ready.server.port}"
    async with AsyncServingClient(target, plaintext=True) as client:
        answers = [await client.generate(pb.GenerateRequest()) for _ in range(6)]
        assert {answer.text for answer in answers} == {"ready"}
        await starting.server.set_ready(True)
        while (await client.generate(pb.GenerateRequest())).text != "starting":
            pass
    await asyncio.gather(ready.server.stop(0), starting.server.stop(0))
