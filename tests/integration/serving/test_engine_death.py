"""What the callers see when the engine's process dies."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import grpc
import grpc.aio
import pytest

from tailorbird.rpc.status import reason_of
from tailorbird.serving.v1 import inference_service_pb2 as pb
from tests.integration.serving.process import Client, ServingProcess
from tests.integration.serving.world import CONTEXT, make_base

pytestmark = pytest.mark.long


def children(pid: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def engine_process(pid: int) -> int:
    """Return the id of vLLM's engine process among the children of `pid`."""
    names = {child: Path(f"/proc/{child}/comm").read_text() for child in children(pid)}
    return next(child for child, name in names.items() if name.startswith("VLLM::EngineCor"))


async def test_requests_inside_are_aborted_and_the_process_exits(tmp_path: Path) -> None:
    make_base(tmp_path / "base")
    serving = ServingProcess(
        {
            "TAILORBIRD_BASE_MODEL": str(tmp_path / "base"),
            "TAILORBIRD_DATA_DIR": str(tmp_path / "data"),
            "TAILORBIRD_DTYPE": "float32",
        },
        tmp_path / "serving.log",
    )
    try:
        await asyncio.to_thread(serving.wait_until_serving)
        async with Client(serving.target, "none") as client:
            request = pb.GenerateRequest(
                parent="tenants/acme",
                token_ids=pb.TokenIds(ids=[7, 8, 9]),
                sampling=pb.SamplingParameters(temperature=0, max_tokens=CONTEXT - 10),
            )
            pieces = aiter(client.stream(request))
            await anext(pieces)
            os.kill(engine_process(serving.process.pid), signal.SIGKILL)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                _ = [piece async for piece in pieces]
            assert caught.value.code() == grpc.StatusCode.ABORTED
            assert reason_of(caught.value) == "ENGINE_DIED"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.generate(request)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert await asyncio.to_thread(serving.wait) == 1
    finally:
        serving.close()


async def test_sigterm_while_starting_ends_the_process(tmp_path: Path) -> None:
    make_base(tmp_path / "base")
    serving = ServingProcess(
        {
            "TAILORBIRD_BASE_MODEL": str(tmp_path / "base"),
            "TAILORBIRD_DATA_DIR": str(tmp_path / "data"),
        },
        tmp_path / "serving.log",
    )
    try:
        async with asyncio.timeout(120):
            while not children(serving.process.pid):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        serving.terminate()
        assert await asyncio.to_thread(serving.wait) == 0
    finally:
        serving.close()
