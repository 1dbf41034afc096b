"""More adapters than slots."""

from __future__ import annotations

import grpc
import grpc.aio

from tailorbird.names import AdapterName, VersionName
from tests.integration.serving.calls import (
    LONG,
    SLOTS,
    ask,
    eventually,
)
from tests.integration.serving.process import Client, ServingProcess, refusal
from tests.integration.serving.world import (
    World,
)


async def test_an_adapter_more_than_slots_waits_until_one_is_free(
    serving: ServingProcess, world: World, client: Client
) -> None:
    names = [AdapterName("acme", f"slot-{number}") for number in range(SLOTS + 1)]
    for number, name in enumerate(names):
        await world.publish_routed(name, seed=20 + number)
    for name in names[:SLOTS]:
        await client.generate(ask(name))
    assert serving.metric("tailorbird_serving_adapters_resident") == SLOTS
    # vLLM on a CPU gives the base what is in the last of its slots.
    assert (await client.generate(ask("tenants/acme"))).text == world.base_answer
    streams = [client.stream(ask(name, sampling=LONG)) for name in names[:SLOTS]]
    for stream in streams:
        await anext(aiter(stream))
    code, reason, text = await refusal(client.generate(ask(names[SLOTS])))
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "ADAPTER_SLOTS_EXHAUSTED")
    assert str(SLOTS) in text
    streams[0].cancel()

    async def answers() -> bool:
        call = client.inference.Generate(ask(names[SLOTS]), metadata=client.metadata)
        code = await call.code()
        assert code in (grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED)
        return code == grpc.StatusCode.OK

    await eventually(answers)
    for stream in streams[1:]:
        stream.cancel()
    assert serving.metric("tailorbird_serving_adapters_resident") == SLOTS
    # The one that had to leave comes back as it was.
    answer = await client.generate(ask(names[0]))
    assert answer.text == world.answers[VersionName.parse(answer.version)]
