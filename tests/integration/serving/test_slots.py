"""More adapters than slots."""

from __future__ import annotations

import asyncio

from tailorbird.names import AdapterName, VersionName
from tailorbird.serving.v1 import inference_service_pb2 as pb
from tests.integration.serving.calls import (
    LONG,
    SLOTS,
    ask,
    eventually,
)
from tests.integration.serving.process import Client, ServingProcess
from tests.integration.serving.world import (
    World,
)

SOME = pb.SamplingParameters(temperature=0, max_tokens=64)


async def test_an_adapter_more_than_slots_waits_until_one_is_free(
    serving: ServingProcess, world: World, client: Client
) -> None:
    names = [AdapterName("acme", f"slot-{number}") for number in range(SLOTS + 1)]
    for number, name in enumerate(names):
        await world.publish_routed(name, seed=20 + number)
    for name in names[:SLOTS]:
        await client.generate(ask(name))
    assert serving.metric("tailorbird_serving_adapters_resident") == SLOTS
    # vLLM's own kernels on a CPU give the base what is in the last of its slots.
    assert (await client.generate(ask("tenants/acme"))).text == world.base_answer
    streams = [client.stream(ask(name, sampling=LONG)) for name in names[:SLOTS]]
    for stream in streams:
        await anext(aiter(stream))
    one_more = asyncio.create_task(client.generate(ask(names[SLOTS])))

    async def waits() -> bool:
        return serving.metric('vllm:num_requests_waiting{model_name="tiny-base"}') == 1

    # It waits, for slots that are all in use; nobody is thrown out for it, and it is not refused.
    await eventually(waits)
    streams[0].cancel()
    answer = await one_more
    assert answer.text == world.answers[VersionName.parse(answer.version)]
    for stream in streams[1:]:
        stream.cancel()
    assert serving.metric("tailorbird_serving_adapters_resident") == SLOTS
    # The one that had to leave comes back as it was.
    answer = await client.generate(ask(names[0]))
    assert answer.text == world.answers[VersionName.parse(answer.version)]


async def test_a_hot_adapter_does_not_keep_its_slot_from_others_for_ever(
    serving: ServingProcess, world: World, client: Client
) -> None:
    names = [AdapterName("acme", f"hot-{number}") for number in range(SLOTS + 1)]
    for number, name in enumerate(names):
        await world.publish_routed(name, seed=50 + number)
    stop = asyncio.Event()

    async def keep_busy(name: AdapterName) -> int:
        answered = 0
        while not stop.is_set():
            await client.generate(ask(name, sampling=SOME))
            answered += 1
        return answered

    # Two at a time for each: no slot is ever idle by itself.
    hot = [asyncio.create_task(keep_busy(name)) for name in names[:SLOTS] for _ in range(2)]
    answer = await client.generate(ask(names[SLOTS]))
    stop.set()
    assert answer.text == world.answers[VersionName.parse(answer.version)]
    assert all(answered > 0 for answered in await asyncio.gather(*hot))
