"""Routes: moved by others while requests stream, and moved by Promote and Rollback."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio

from tailorbird.adapters.v1 import adapter_service_pb2 as adapters_pb
from tailorbird.names import AdapterName, VersionName
from tailorbird.serving.v1 import inference_service_pb2 as pb
from tests.integration.serving.calls import (
    LONG,
    ask,
    promote,
    rollback,
)
from tests.integration.serving.process import Client, refusal
from tests.integration.serving.world import (
    World,
)


async def test_a_new_route_takes_effect_under_load_without_a_failure(
    world: World, client: Client, adapter: AdapterName
) -> None:
    old = await world.publish_routed(adapter, seed=4)
    assert (await client.generate(ask(adapter))).version == str(old)
    new = await world.publish(adapter, seed=5)
    started = client.stream(ask(adapter, sampling=LONG))
    assert (await anext(aiter(started))).version == str(old)
    seen: list[str] = []
    flipped, done = asyncio.Event(), asyncio.Event()

    async def load() -> None:
        while not done.is_set():
            pieces = [piece async for piece in client.stream(ask(adapter))]
            version = VersionName.parse(pieces[0].version)
            assert "".join(piece.text for piece in pieces) == world.answers[version]
            seen.append(pieces[0].version)
            if version == new:
                flipped.set()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(4):
            tasks.create_task(load())
        await world.route(new)
        await flipped.wait()
        done.set()
    assert set(seen) == {str(old), str(new)}
    # What was under way when the route moved ends well, on the version it began with.
    rest = [piece async for piece in started]
    assert rest[-1].finish_reason == pb.FINISH_REASON_LENGTH


async def test_promote_and_rollback_take_effect_at_once(
    world: World, client: Client, adapter: AdapterName
) -> None:
    first = await world.publish(adapter, seed=6)
    second = await world.publish(adapter, seed=7)
    code, reason, _ = await refusal(client.generate(ask(adapter)))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ADAPTER_NOT_ROUTED")
    code, reason, _ = await refusal(rollback(client, adapter))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ADAPTER_NOT_ROUTED")

    route = await promote(client, first)
    assert (route.generation, route.reason, route.actor) == (1, "promote", "acme")
    assert (await client.generate(ask(adapter))).version == str(first)
    code, reason, _ = await refusal(rollback(client, adapter))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_PREVIOUS_VERSION")

    assert (await promote(client, second)).generation == 2
    answer = await client.generate(ask(adapter))
    assert (answer.version, answer.route_generation) == (str(second), 2)
    assert (await promote(client, second)).generation == 2

    back = await rollback(client, adapter)
    assert (back.generation, back.version, back.reason) == (3, str(first), "rollback")
    assert (await client.generate(ask(adapter))).text == world.answers[first]
    assert (await rollback(client, adapter, second)).generation == 4
    assert (await client.generate(ask(adapter))).version == str(second)
    code, _, text = await refusal(rollback(client, AdapterName("acme", "other"), second))
    assert code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT), text


async def test_a_route_that_cannot_be_read_hides_nothing_and_can_be_left_behind(
    world: World, client: Client, adapter: AdapterName
) -> None:
    first, second = [await world.publish_routed(adapter, seed=seed) for seed in (4, 5)]
    garbage = f"{adapter}/routes/{3:012d}.json"
    await world.registry.store.create(garbage, b"garbage")
    listing = adapters_pb.ListAdaptersRequest(parent="tenants/acme", page_size=1000)
    found = await client.adapters.ListAdapters(listing, metadata=client.metadata)
    (listed,) = [one for one in found.adapters if one.name == str(adapter)]
    assert (listed.route.generation, listed.route.version) == (2, str(second))
    assert (await client.generate(ask(adapter))).version == str(second)
    route = await rollback(client, adapter)
    assert (route.generation, route.version) == (4, str(first))
    assert (await client.generate(ask(adapter))).version == str(first)


async def test_a_version_that_is_gone_from_the_store_is_not_promoted(
    world: World, client: Client, adapter: AdapterName
) -> None:
    kept = await world.publish_routed(adapter, seed=4)
    gone = await world.publish(adapter, seed=5)
    assert (await client.generate(ask(gone))).version == str(gone)
    await world.registry.store.delete(f"{gone}/manifest.json")
    code, reason, _ = await refusal(promote(client, gone))
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "VERSION_NOT_FOUND")
    assert (await client.generate(ask(adapter))).version == str(kept)
