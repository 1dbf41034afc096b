"""What many callers do to a real serving process: cancel, and ask for what must be loaded."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import psutil
import pytest

from tailorbird.base_model import load_base_model
from tailorbird.names import AdapterName, VersionName
from tailorbird.object_store import open_store
from tailorbird.registry import AdapterRegistry
from tailorbird.serving.v1 import inference_service_pb2 as pb
from tests.integration.serving.calls import LONG, SLOTS, ask, eventually
from tests.integration.serving.process import Client, ServingProcess
from tests.integration.serving.world import World, make_base

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

CALLS = 10_000
CALLERS = 32
LOADED_AT_ONCE = 8
MOST_MILLISECONDS = 20.0
GAUGES = ("running", "waiting")


async def test_ten_thousand_cancelled_calls_leave_nothing(
    serving: ServingProcess, world: World, client: Client
) -> None:
    names = [AdapterName("acme", f"cancelled-{number}") for number in range(3)]
    for seed, name in enumerate(names):
        await world.publish_routed(name, seed=seed)
    for name in names:
        await client.generate(ask(name))
    process = psutil.Process(serving.process.pid)
    descriptors = process.num_fds()
    choice, left = random.Random(3), iter(range(CALLS))

    async def cancel_some() -> None:
        for _ in left:
            stream = client.stream(ask(choice.choice(names), sampling=LONG))
            how = choice.random()
            if how < 0.3:
                await anext(aiter(stream))
            elif how < 0.7:
                # Somewhere between its arrival and its first token.
                await asyncio.sleep(choice.random() * 0.02)
            stream.cancel()

    await asyncio.gather(*(cancel_some() for _ in range(CALLERS)))

    async def idle() -> bool:
        gauges = [f'vllm:num_requests_{what}{{model_name="tiny-base"}}' for what in GAUGES]
        held = serving.metric("tailorbird_serving_adapter_leases")
        return not held and not any(map(serving.metric, gauges))

    await eventually(idle, seconds=60)
    for name in names:
        answer = await client.generate(ask(name))
        assert answer.text == world.answers[VersionName.parse(answer.version)]
    assert process.num_fds() <= descriptors + 4


async def test_the_loop_goes_on_while_eight_adapters_load(tmp_path: Path) -> None:
    make_base(tmp_path / "base")
    base = load_base_model(str(tmp_path / "base"), tmp_path)
    registry = AdapterRegistry(open_store((tmp_path / "data" / "store").as_uri()))
    world = World(base, registry, tmp_path)
    slow = tmp_path / "slow.txt"
    serving = ServingProcess(
        {
            "TAILORBIRD_BASE_MODEL": str(tmp_path / "base"),
            "TAILORBIRD_DATA_DIR": str(tmp_path / "data"),
            "TAILORBIRD_DTYPE": "float32",
            "TAILORBIRD_ADAPTER_SLOTS": str(SLOTS),
        },
        tmp_path / "serving.log",
        ["-m", "tests.integration.serving.loop_child", str(slow)],
    )
    try:
        await asyncio.to_thread(serving.wait_until_serving)
        async with Client(serving.target, "none") as client:
            # What is done once in the life of a process is not what is asked here.
            await client.generate(ask(await routed(world, "first", 1)))
            names = [await routed(world, f"adapter-{n}", n) for n in range(LOADED_AT_ONCE)]
            streams = [client.stream(ask("tenants/acme", sampling=LONG)) for _ in range(4)]
            for stream in streams:
                await anext(aiter(stream))
            known = len(slow.read_text().splitlines())
            # Its start had some: it is measured.
            assert known
            answers: list[pb.GenerateResponse] = await asyncio.gather(
                *(client.generate(ask(name)) for name in names)
            )
            found = slow.read_text().splitlines()[known:]
            for stream in streams:
                stream.cancel()
        assert [answer.text for answer in answers] == [
            world.answers[VersionName.parse(answer.version)] for answer in answers
        ]
        assert [line for line in found if float(line.split()[0]) > MOST_MILLISECONDS] == []
    finally:
        serving.close()


async def routed(world: World, name: str, seed: int) -> AdapterName:
    adapter = AdapterName("acme", name)
    await world.publish_routed(adapter, seed=seed)
    return adapter
