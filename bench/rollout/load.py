"""python -m bench.rollout.load: requests at a constant rate, each sent once.

The first line of input is a LoadPlan; every later one is answered with the requests so far, and the
end of input with a list of all, once the last has ended. A call that fails is written down and
never made again.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from contextlib import suppress
from dataclasses import asdict

import grpc.aio
import uvloop

from bench.rollout.load_plan import Asked, Heard, LoadPlan, Shot, Target, fault_of
from bench.serving.client_ours import described
from tailorbird.client import chat_request
from tailorbird.serving.v1 import inference_service_pb2 as pb
from tailorbird.serving.v1 import inference_service_pb2_grpc as inference_grpc

NUMBER = "x-bench-request"
"""Metadata that tells the proxy's log which request it was."""
_CALL_SECONDS = 60.0
# Every tenant is a caller with a connection of its own.
_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


class _Caller:
    """One tenant's channel."""

    def __init__(self, address: str, question: str, target: Target) -> None:
        self.channel = grpc.aio.insecure_channel(address, options=_OWN_CONNECTION)
        self._stub: inference_grpc.InferenceServiceAsyncStub = inference_grpc.InferenceServiceStub(
            self.channel
        )
        self._question = question
        self._metadata = (
            ("authorization", f"Bearer {target.token}"),
            ("x-tailorbird-adapter", target.model),
        )

    async def ask(self, shot: Shot, number: int) -> Heard:
        """Send one request and hear its answer to the end; AioRpcError."""
        request = _request(shot, self._question)
        metadata = (*self._metadata, (NUMBER, str(number)))
        heard = Heard()
        if shot.method == "Generate":
            _hear(
                heard,
                await self._stub.Generate(request, metadata=metadata, timeout=_CALL_SECONDS),
            )
            return heard
        stream = self._stub.StreamGenerate(
            pb.StreamGenerateRequest(request=request), metadata=metadata, timeout=_CALL_SECONDS
        )
        async for message in stream:
            _hear(heard, message)
        return heard


def _request(shot: Shot, question: str) -> pb.GenerateRequest:
    request = chat_request(shot.target.model, question, max_tokens=shot.tokens, temperature=0)
    request.sampling.ignore_eos = not shot.target.marker
    return request


def _hear(heard: Heard, message: pb.GenerateResponse | pb.StreamGenerateResponse) -> None:
    heard.version = heard.version or message.version
    heard.text += message.text
    if message.finish_reason:
        heard.stopped = message.finish_reason == pb.FINISH_REASON_STOP
        heard.at_limit = message.finish_reason == pb.FINISH_REASON_LENGTH
        heard.tokens = message.usage.completion_tokens


class Load:
    """Sends a plan's shots in turn until it is told to stop."""

    def __init__(self, plan: LoadPlan) -> None:
        self._plan = plan
        self._callers = {
            target.model: _Caller(plan.address, plan.question, target) for target in plan.targets
        }
        self._stop = asyncio.Event()
        self.asked: list[Asked] = []

    def stop(self) -> None:
        """Send nothing more."""
        self._stop.set()

    async def run(self) -> None:
        """Send at the plan's rate until stopped; return when every answer has come."""
        start = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number, shot in enumerate(itertools.cycle(self._plan.shots())):
                due = start + number / self._plan.requests_per_second
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), max(0.0, due - time.monotonic()))
                if self._stop.is_set():
                    break
                group.create_task(self._ask(number, shot))
        for caller in self._callers.values():
            await caller.channel.close()

    async def _ask(self, number: int, shot: Shot) -> None:
        model = shot.target.model
        asked = Asked(number, model, shot.method, shot.is_long, time.monotonic())
        self.asked.append(asked)
        try:
            heard = await self._callers[model].ask(shot, number)
        except grpc.aio.AioRpcError as error:
            asked.fault, asked.why = "refused", described(error)
        else:
            asked.fault = fault_of(shot, heard)
            asked.why = f"{heard.version} answered {heard.text[:80]!r}" if asked.fault else ""
        asked.end = time.monotonic()


async def _serve() -> None:
    load = Load(LoadPlan.from_json(await asyncio.to_thread(sys.stdin.readline)))
    running = asyncio.create_task(load.run())
    while await asyncio.to_thread(sys.stdin.readline) == "count\n":
        faults = sum(bool(asked.fault) for asked in load.asked)
        print(json.dumps({"requests": len(load.asked), "failed": faults}), flush=True)
    load.stop()
    await running
    print(json.dumps({"asked": [asdict(asked) for asked in load.asked]}), flush=True)


if __name__ == "__main__":
    uvloop.run(_serve())
