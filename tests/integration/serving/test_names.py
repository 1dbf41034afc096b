"""Names that do not exist, names of other tenants, and listings."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest

from tailorbird.adapters.v1 import adapter_service_pb2 as adapters_pb
from tailorbird.names import AdapterName
from tests.integration.serving.calls import (
    GLOBEX,
    ask,
    promote,
    rollback,
)
from tests.integration.serving.process import Client, ServingProcess, refusal
from tests.integration.serving.world import (
    World,
)


async def test_unknown_names(world: World, client: Client, adapter: AdapterName) -> None:
    version = await world.publish_routed(adapter)
    absent = adapter.version("20200101T000000-job-1")
    unknown = AdapterName("acme", "unknown")
    for call in (
        client.generate(ask(unknown)),
        client.generate(ask(absent)),
        client.generate(ask(unknown.version(version.version))),
        promote(client, absent),
        rollback(client, unknown),
        rollback(client, adapter, absent),
        client.adapters.GetAdapter(
            adapters_pb.GetAdapterRequest(name=str(unknown)), metadata=client.metadata
        ),
        client.adapters.GetVersion(
            adapters_pb.GetVersionRequest(name=str(absent)), metadata=client.metadata
        ),
        client.adapters.ListVersions(
            adapters_pb.ListVersionsRequest(parent=str(unknown)), metadata=client.metadata
        ),
    ):
        code, _, _ = await refusal(call)
        assert code == grpc.StatusCode.NOT_FOUND


async def test_another_tenants_names_do_not_exist(
    serving: ServingProcess, world: World, adapter: AdapterName
) -> None:
    version = await world.publish_routed(adapter)
    async with Client(serving.target, GLOBEX) as stranger:
        metadata = stranger.metadata
        calls: list[Any] = [
            stranger.generate(ask(adapter)),
            stranger.generate(ask(version)),
            stranger.generate(ask("tenants/acme")),
            promote(stranger, version),
            rollback(stranger, adapter),
        ]
        stub = stranger.adapters
        for call in (
            stub.GetAdapter(adapters_pb.GetAdapterRequest(name=str(adapter)), metadata=metadata),
            stub.GetVersion(adapters_pb.GetVersionRequest(name=str(version)), metadata=metadata),
            stub.ListAdapters(
                adapters_pb.ListAdaptersRequest(parent="tenants/acme"), metadata=metadata
            ),
            stub.ListVersions(
                adapters_pb.ListVersionsRequest(parent=str(adapter)), metadata=metadata
            ),
            *calls,
        ):
            code, reason, _ = await refusal(call)
            assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            _ = [piece async for piece in stranger.stream(ask(adapter))]
        assert failure.value.code() == grpc.StatusCode.NOT_FOUND
    async with Client(serving.target, "no-such-token") as nobody:
        code, _, _ = await refusal(nobody.generate(ask(adapter)))
        assert code == grpc.StatusCode.UNAUTHENTICATED


async def test_listings_come_in_pages(serving: ServingProcess, world: World) -> None:
    names = [AdapterName("globex", f"page-{number}") for number in range(3)]
    versions = [await world.publish(names[0], seed=number) for number in range(3)]
    for name in names[1:]:
        await world.publish_routed(name)
    async with Client(serving.target, GLOBEX) as client:
        listed: list[str] = []
        request = adapters_pb.ListAdaptersRequest(parent="tenants/globex", page_size=2)
        for _ in range(2):
            page = await client.adapters.ListAdapters(request, metadata=client.metadata)
            listed += [adapter.name for adapter in page.adapters]
            request.page_token = page.next_page_token
        assert listed == [str(name) for name in names]
        assert page.next_page_token == ""
        assert [adapter.route.generation for adapter in page.adapters] == [1]

        newest = adapters_pb.ListVersionsRequest(parent=str(names[0]), page_size=2)
        found = await client.adapters.ListVersions(newest, metadata=client.metadata)
        newest.page_token = found.next_page_token
        rest = await client.adapters.ListVersions(newest, metadata=client.metadata)
        told = [version.name for version in (*found.versions, *rest.versions)]
        assert told == [str(version) for version in sorted(versions, reverse=True)]
        version = found.versions[0]
        assert (version.rank, version.alpha, version.base_model) == (8, 16, "tiny-base")
        assert version.base_model_digest == world.base.digest
        assert version.lineage.code_version == "test"
        assert not version.evaluation.HasField("validation_loss")
        single = adapters_pb.GetVersionRequest(name=version.name)
        assert (
            await client.adapters.GetVersion(single, metadata=client.metadata)
        ).version == version

        request.page_token = newest.page_token
        code, _, text = await refusal(
            client.adapters.ListAdapters(request, metadata=client.metadata)
        )
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert "page_token" in text
