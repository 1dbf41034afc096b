"""What the callers see when the engine's process dies."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import urllib.error
from pathlib import Path

import grpc
import grpc.aio
import pytest

from tailorbird.base_model import load_base_model
from tailorbird.names import AdapterName
from tailorbird.object_store import open_store
from tailorbird.registry import AdapterRegistry
from tailorbird.rpc.status import reason_of
from tests.integration.serving.calls import LONG, ask, eventually
from tests.integration.serving.process import START_SECONDS, Client, ServingProcess, refusal
from tests.integration.serving.world import World, make_base

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


def lives(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def waiting(serving: ServingProcess) -> int:
    return int(serving.metric('vllm:num_requests_waiting{model_name="base"}'))


def resident(serving: ServingProcess) -> list[str]:
    return re.findall(r'vllm:lora_adapter_loaded{adapter_name="([^"]+)"', serving.http("/metrics"))


def is_ready(serving: ServingProcess) -> bool:
    try:
        serving.http("/readyz")
    except urllib.error.HTTPError:
        return False
    return True


async def test_requests_inside_are_aborted_and_the_engine_comes_back(tmp_path: Path) -> None:
    make_base(tmp_path / "base")
    base = load_base_model(str(tmp_path / "base"), tmp_path)
    registry = AdapterRegistry(open_store((tmp_path / "data" / "store").as_uri()))
    world = World(base, registry, tmp_path)
    adapter = AdapterName("acme", "support")
    version = await world.publish_routed(adapter)
    serving = ServingProcess(
        {
            "TAILORBIRD_BASE_MODEL": str(tmp_path / "base"),
            "TAILORBIRD_DATA_DIR": str(tmp_path / "data"),
            "TAILORBIRD_DTYPE": "float32",
            "TAILORBIRD_ADAPTER_SLOTS": "2",
            "TAILORBIRD_MAX_RUNNING": "1",
        },
        tmp_path / "serving.log",
    )
    try:
        await asyncio.to_thread(serving.wait_until_serving)
        async with Client(serving.target, "none") as client:
            inside = aiter(client.stream(ask(adapter, sampling=LONG)))
            await anext(inside)
            # One runs at a time: this one waits.
            queued = asyncio.create_task(client.generate(ask(adapter)))

            async def waits() -> bool:
                return waiting(serving) == 1

            await eventually(waits)
            os.kill(engine_process(serving.process.pid), signal.SIGKILL)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                _ = [piece async for piece in inside]
            assert caught.value.code() == grpc.StatusCode.ABORTED
            assert reason_of(caught.value) == "ENGINE_DIED"
            code, reason, _ = await refusal(queued)
            assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_RESTARTING")

            async def ready() -> bool:
                return is_ready(serving)

            async def not_ready() -> bool:
                return not is_ready(serving)

            await eventually(not_ready)
            # What was hot is there before readiness rises.
            await eventually(ready, seconds=START_SECONDS)
            assert resident(serving) == [str(adapter)]
            answer = await client.generate(ask(adapter))
            assert answer.version == str(version)
            assert answer.text == world.answers[version]
        assert serving.metric("tailorbird_serving_engine_restarts_total") == 1
        serving.terminate()
        assert await asyncio.to_thread(serving.wait) == 0
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


async def test_a_killed_server_leaves_no_engine(tmp_path: Path) -> None:
    """It would keep its memory for ever: on a GPU the next server could not start."""
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
        engine = engine_process(serving.process.pid)
        inside = [engine, *children(engine)]
        serving.process.kill()

        async def gone() -> bool:
            return not any(map(lives, inside))

        await eventually(gone)
        assert not any(map(lives, inside))
    finally:
        serving.close()
