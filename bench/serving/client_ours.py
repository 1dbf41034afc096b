"""Tailorbird's serving, over one gRPC channel with the generated stubs, as a caller would."""

from __future__ import annotations

import time

import grpc
import grpc.aio

from bench.serving.load import RequestFailed
from bench.serving.plan import Answer, Ask
from tailorbird.rpc.status import reason_of
from tailorbird.serving.v1 import inference_service_pb2 as pb
from tailorbird.serving.v1 import inference_service_pb2_grpc as inference_grpc

ADAPTER = "bench"
"""Every tenant's adapter has this name."""


class OursClient:
    """`load.Client` for our service."""

    def __init__(self, address: str, token: str) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self._stub: inference_grpc.InferenceServiceAsyncStub = inference_grpc.InferenceServiceStub(
            self._channel
        )
        self._authorization = ("authorization", f"Bearer {token}")

    async def ask(self, ask: Ask, answer: Answer) -> None:
        """See load.Client."""
        request = generate_request(ask)
        target = request.adapter or request.parent
        call = self._stub.StreamGenerate(
            pb.StreamGenerateRequest(request=request),
            metadata=(self._authorization, ("x-tailorbird-adapter", target)),
        )
        times, clock = answer.times, time.perf_counter
        try:
            async for message in call:
                if message.text:
                    times.append(clock())
                if message.finish_reason:
                    answer.tokens = message.usage.completion_tokens
        except grpc.aio.AioRpcError as error:
            raise RequestFailed(described(error)) from error
        if not answer.tokens:
            raise RequestFailed("the stream ended without its usage")

    async def close(self) -> None:
        """See load.Client."""
        await self._channel.close()


def generate_request(ask: Ask) -> pb.GenerateRequest:
    """Return the request that `ask` stands for: greedy, of exactly `max_tokens`."""
    sampling = pb.SamplingParameters(temperature=0, max_tokens=ask.max_tokens, ignore_eos=True)
    request = pb.GenerateRequest(sampling=sampling)
    if ask.chat:
        request.chat.messages.add(role=pb.ROLE_USER, content=ask.prompt)
    else:
        request.prompt = ask.prompt
    if ask.adapted:
        request.adapter = f"tenants/{ask.tenant}/adapters/{ADAPTER}"
    else:
        request.parent = f"tenants/{ask.tenant}"
    return request


def described(error: grpc.aio.AioRpcError) -> str:
    """Return the status, the reason and the text of a failed call, on one line."""
    return f"{error.code().name} {reason_of(error)}: {error.details()}"
