"""python -m bench.serving.swap_load: traffic over adapters while their routes move to and fro.

Reads one SwapPlan as a line of JSON and answers with one SwapResult.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field

import grpc.aio
import uvloop

from bench.serving.client_ours import described
from tailorbird.adapters.v1 import adapter_service_pb2 as adapters_pb
from tailorbird.adapters.v1 import adapter_service_pb2_grpc as adapters_grpc
from tailorbird.client import chat_request
from tailorbird.serving.v1 import inference_service_pb2 as pb
from tailorbird.serving.v1 import inference_service_pb2_grpc as inference_grpc

_CALL_SECONDS = 120.0
_AFTER_FAILURE_SECONDS = 0.05
_FAILURES_IN_A_ROW = 50


@dataclass(frozen=True, slots=True)
class SwapPlan:
    """What to do. `versions` are the versions of each adapter; `markers` what each answers."""

    address: str
    token: str
    question: str
    max_tokens: int
    versions: dict[str, list[str]]
    markers: dict[str, str]
    streams_per_adapter: int
    swaps: int
    requests: int
    limit_seconds: float


@dataclass(slots=True)
class SwapResult:
    """What was done. Truncated answers count as failed; so do swaps that failed."""

    swaps: int = 0
    requests: int = 0
    failed: int = 0
    mismatched: int = 0
    failed_swaps: int = 0
    seconds: float = 0.0
    swap_seconds: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    """How often each thing went wrong."""


def judge(marker: str | None, text: str, stopped: bool) -> str:
    """Return "" for the marker of the version that answered, "truncated" or "mismatched".

    `stopped` tells whether the model itself ended the answer.
    """
    if marker is None or not marker.startswith(text):
        return "mismatched"
    return "" if text == marker and stopped else "truncated"


class _Swaps:
    def __init__(self, plan: SwapPlan) -> None:
        self._plan = plan
        self.result = SwapResult()
        self._channel = grpc.aio.insecure_channel(plan.address)
        self._adapters: adapters_grpc.AdapterServiceAsyncStub = adapters_grpc.AdapterServiceStub(
            self._channel
        )
        self._inference: inference_grpc.InferenceServiceAsyncStub = (
            inference_grpc.InferenceServiceStub(self._channel)
        )
        self._metadata = (("authorization", f"Bearer {plan.token}"),)
        self._enough = False

    async def run(self) -> SwapResult:
        """Swap and ask until enough of both is done, or the time is up."""
        started = time.perf_counter()
        streams = [
            asyncio.create_task(self._ask_on(adapter))
            for adapter in self._plan.versions
            for _ in range(self._plan.streams_per_adapter)
        ]
        try:
            async with asyncio.timeout(self._plan.limit_seconds):
                await self._swap_on()
        except TimeoutError:
            self.result.failures["the time was up"] += 1
        self._enough = True
        # Each stream ends after the answer it is waiting for.
        await asyncio.gather(*streams)
        await self._channel.close()
        self.result.seconds = time.perf_counter() - started
        return self.result

    async def _swap_on(self) -> None:
        result, plan = self.result, self._plan
        adapters, in_a_row = list(plan.versions), 0
        turn = 0
        while result.swaps < plan.swaps or result.requests < plan.requests:
            adapter, lap = adapters[turn % len(adapters)], turn // len(adapters)
            turn += 1
            versions = plan.versions[adapter]
            # The first version is the one routed at the start.
            version = versions[(lap + 1) % len(versions)]
            began = time.perf_counter()
            try:
                await self._adapters.Promote(
                    adapters_pb.PromoteRequest(name=version),
                    metadata=self._metadata,
                    timeout=_CALL_SECONDS,
                )
            except grpc.aio.AioRpcError as error:
                result.failed_swaps += 1
                self._fail(f"swap: {described(error)}")
                in_a_row += 1
                if in_a_row == _FAILURES_IN_A_ROW:
                    return
                await asyncio.sleep(_AFTER_FAILURE_SECONDS)
                continue
            in_a_row = 0
            result.swaps += 1
            result.swap_seconds.append(time.perf_counter() - began)

    async def _ask_on(self, adapter: str) -> None:
        request = pb.StreamGenerateRequest(
            request=chat_request(
                adapter,
                self._plan.question,
                max_tokens=self._plan.max_tokens,
                temperature=0,
            )
        )
        metadata = (*self._metadata, ("x-tailorbird-adapter", adapter))
        while not self._enough:
            self.result.requests += 1
            text, version, reason = "", "", pb.FINISH_REASON_UNSPECIFIED
            try:
                call = self._inference.StreamGenerate(
                    request, metadata=metadata, timeout=_CALL_SECONDS
                )
                async for message in call:
                    version = version or message.version
                    text += message.text
                    reason = message.finish_reason or reason
            except grpc.aio.AioRpcError as error:
                self._fail(f"request: {described(error)}")
                await asyncio.sleep(_AFTER_FAILURE_SECONDS)
                continue
            marker = self._plan.markers.get(version)
            wrong = judge(marker, text, reason == pb.FINISH_REASON_STOP)
            if wrong == "mismatched":
                self.result.mismatched += 1
                self.result.failures[f"{version} answered {text[:80]!r}"] += 1
            elif wrong:
                self._fail(f"{wrong}: {version} answered {text[:80]!r}")

    def _fail(self, why: str) -> None:
        self.result.failed += 1
        self.result.failures[why[:300]] += 1


async def _serve() -> None:
    line = await asyncio.to_thread(sys.stdin.readline)
    result = await _Swaps(SwapPlan(**json.loads(line))).run()
    print(json.dumps(asdict(result)), flush=True)


if __name__ == "__main__":
    uvloop.run(_serve())
