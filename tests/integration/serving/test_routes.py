"""Routes: moved by others while requests stream, and moved by Promote, Rollback and SetRoute."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import grpc
import grpc.aio

from tailorbird.adapters.v1 import adapter_service_pb2 as adapters_pb
from tailorbird.names import AdapterName, VersionName
from tailorbird.routes import Route, RoutedVersion
from tailorbird.serving.v1 import inference_service_pb2 as pb
from tests.integration.serving.calls import (
    GLOBEX,
    LONG,
    ask,
    delete,
    eventually,
    get_adapter,
    get_version,
    list_versions,
    promote,
    rollback,
    set_route,
)
from tests.integration.serving.process import Client, ServingProcess, refusal
from tests.integration.serving.world import (
    World,
)

OTHER_BASE = f"sha256:{'f' * 64}"


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


async def test_a_split_route_answers_by_key_and_by_weight(
    world: World, client: Client, adapter: AdapterName
) -> None:
    first, second = [await world.publish(adapter, seed=seed) for seed in (4, 5)]
    route = await set_route(client, adapter, {first: 600, second: 400})
    assert (route.generation, route.version, route.reason) == (1, str(first), "set")
    told = {routed.version: routed.weight for routed in route.versions}
    assert told == {str(first): 600, str(second): 400}
    assert (await get_adapter(client, adapter)).route == route

    by_key = {}
    for number in range(24):
        key = f"customer-{number}"
        answer = await client.generate(ask(adapter, routing_key=key))
        by_key[key] = answer.version
        assert answer.route_generation == 1
        assert answer.text == world.answers[VersionName.parse(answer.version)]
    assert set(by_key.values()) == {str(first), str(second)}
    for key, version in by_key.items():
        assert (await client.generate(ask(adapter, routing_key=key))).version == version
    unkeyed = {(await client.generate(ask(adapter))).version for _ in range(30)}
    assert unkeyed == {str(first), str(second)}

    # The same again, in another order: nothing is written.
    assert (await set_route(client, adapter, {second: 400, first: 600})).generation == 1
    # More for the second takes keys from the first only.
    assert (await set_route(client, adapter, {first: 600, second: 1000}, 1)).generation == 2
    for key, version in by_key.items():
        now = (await client.generate(ask(adapter, routing_key=key))).version
        assert now in (version, str(second))
    back = await rollback(client, adapter)
    assert (back.generation, [routed.weight for routed in back.versions]) == (3, [600, 400])


async def test_a_route_is_set_only_to_what_passes_and_only_when_expected(
    world: World, client: Client, adapter: AdapterName
) -> None:
    good = await world.publish_routed(adapter, seed=4)
    bad = await world.publish(adapter, seed=5, manifest_changes={"base_model_digest": OTHER_BASE})
    code, reason, _ = await refusal(set_route(client, adapter, {good: 90, bad: 10}))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "BASE_MISMATCH")
    code, reason, _ = await refusal(set_route(client, adapter, {good: 1}, 7))
    assert (code, reason) == (grpc.StatusCode.ABORTED, "ROUTE_CONFLICT")
    stranger = await world.publish(AdapterName("acme", f"{adapter.adapter}-other"), seed=6)
    absent = {adapter.version(f"20260101T000000-job-{number}"): 1 for number in range(1, 18)}
    for weights in ({}, absent, {good: 0}, {good: 1001}, {good: 1, stranger: 1}):
        code, _, text = await refusal(set_route(client, adapter, weights))
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert "versions" in text
    assert (await get_adapter(client, adapter)).route.generation == 1


async def test_a_deleted_version_is_served_no_more(
    world: World, client: Client, serving: ServingProcess, adapter: AdapterName
) -> None:
    kept, gone = [await world.publish(adapter, seed=seed) for seed in (4, 5)]
    await set_route(client, adapter, {kept: 90, gone: 10})
    code, reason, _ = await refusal(delete(client, gone))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "VERSION_ROUTED")
    await promote(client, kept)
    assert (await client.generate(ask(gone))).version == str(gone)
    async with Client(serving.target, GLOBEX) as stranger:
        code, _, _ = await refusal(delete(stranger, gone))
        assert code == grpc.StatusCode.NOT_FOUND

    deleted = await delete(client, gone)
    assert deleted.name == str(gone)
    assert deleted.HasField("delete_time")
    assert await delete(client, gone) == deleted
    assert await get_version(client, gone) == deleted
    assert await list_versions(client, adapter) == [str(kept)]
    for call in (
        client.generate(ask(gone)),
        promote(client, gone),
        set_route(client, adapter, {kept: 1, gone: 1}),
    ):
        code, reason, _ = await refusal(call)
        assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "VERSION_DELETED")
    assert (await client.generate(ask(adapter))).version == str(kept)


async def test_a_version_deleted_on_another_replica_is_served_no_more(
    world: World, client: Client, adapter: AdapterName
) -> None:
    kept = await world.publish_routed(adapter, seed=4)
    routed = await world.publish_routed(adapter, seed=5)
    named = await world.publish(adapter, seed=6)
    assert (await client.generate(ask(adapter))).version == str(routed)
    assert (await client.generate(ask(named))).version == str(named)
    for version in (routed, named):
        await world.registry.bury(version, "another replica")

    async def named_is_refused() -> bool:
        try:
            await client.generate(ask(named))
        except grpc.aio.AioRpcError as error:
            return error.code() == grpc.StatusCode.NOT_FOUND
        return False

    async def walked_back() -> bool:
        return (await client.generate(ask(adapter))).version == str(kept)

    await eventually(named_is_refused)
    # A race may leave a route to what is deleted: that is looked for at every tenth poll.
    await eventually(walked_back, seconds=60)


async def test_a_demanded_generation_answers_at_once_or_not_at_all(
    world: World, client: Client, adapter: AdapterName
) -> None:
    old = await world.publish_routed(adapter, seed=4)
    assert (await client.generate(ask(adapter))).version == str(old)
    new = await world.publish(adapter, seed=5)
    route = await world.route(new)
    answer = await client.generate(ask(adapter, min_route_generation=route.generation))
    assert (answer.version, answer.route_generation) == (str(new), route.generation)
    code, reason, _ = await refusal(client.generate(ask(adapter, min_route_generation=99)))
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "ROUTE_GENERATION_NOT_REACHED")


async def test_a_replica_200_generations_behind_catches_up(
    world: World, client: Client, adapter: AdapterName
) -> None:
    versions = [await world.publish(adapter, seed=seed) for seed in (4, 5)]
    await world.route(versions[0])
    assert (await client.generate(ask(adapter))).route_generation == 1
    for generation in range(2, 202):
        version = versions[generation % 2]
        await world.registry.append_route(adapter, _route(generation, version))
    answer = await client.generate(ask(adapter, min_route_generation=201))
    assert (answer.version, answer.route_generation) == (str(versions[1]), 201)


def _route(generation: int, version: VersionName) -> Route:
    return Route(
        generation=generation,
        versions=(RoutedVersion(version=version.version),),
        reason="publish",
        actor="test",
        create_time=datetime.now(UTC),
        nonce=str(generation),
    )
