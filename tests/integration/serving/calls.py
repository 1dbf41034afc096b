"""How serving's tests ask."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tailorbird.adapters.v1 import adapter_service_pb2 as adapters_pb
from tailorbird.names import AdapterName, VersionName
from tailorbird.serving.v1 import inference_service_pb2 as pb
from tests.integration.serving import world
from tests.integration.serving.process import Client
from tests.integration.serving.world import CONTEXT

SLOTS = 8
ACME = "acme-token"
GLOBEX = "globex-token"
GREEDY = pb.SamplingParameters(temperature=0, max_tokens=8)
LONG = pb.SamplingParameters(temperature=0, max_tokens=CONTEXT - 100)
PROMPT = pb.TokenIds(ids=world.PROMPT)


def ask(model: AdapterName | VersionName | str, **changes: Any) -> pb.GenerateRequest:
    """Return a request for PROMPT to an adapter, to one version of it, or to a tenant's base."""
    request = pb.GenerateRequest(**({"sampling": GREEDY, "token_ids": PROMPT} | changes))
    if isinstance(model, VersionName):
        request.adapter, request.version = str(model.adapter_name), model.version
    elif isinstance(model, AdapterName):
        request.adapter = str(model)
    else:
        request.parent = model
    return request


async def eventually(holds: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
    """Wait until `holds`: for what another process shows no event of."""
    async with asyncio.timeout(seconds):
        while not await holds():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def promote(client: Client, version: VersionName) -> adapters_pb.Route:
    request = adapters_pb.PromoteRequest(name=str(version))
    return (await client.adapters.Promote(request, metadata=client.metadata)).route


async def rollback(
    client: Client, adapter: AdapterName, to_version: VersionName | str = ""
) -> adapters_pb.Route:
    request = adapters_pb.RollbackRequest(name=str(adapter), to_version=str(to_version))
    return (await client.adapters.Rollback(request, metadata=client.metadata)).route


async def set_route(
    client: Client,
    adapter: AdapterName,
    weights: dict[VersionName, int],
    expected_generation: int = 0,
) -> adapters_pb.Route:
    request = adapters_pb.SetRouteRequest(
        name=str(adapter),
        versions=[
            adapters_pb.RoutedVersion(version=str(version), weight=weight)
            for version, weight in weights.items()
        ],
        expected_generation=expected_generation,
    )
    return (await client.adapters.SetRoute(request, metadata=client.metadata)).route


async def delete(client: Client, version: VersionName) -> adapters_pb.Version:
    request = adapters_pb.DeleteVersionRequest(name=str(version))
    return (await client.adapters.DeleteVersion(request, metadata=client.metadata)).version


async def get_adapter(client: Client, adapter: AdapterName) -> adapters_pb.Adapter:
    request = adapters_pb.GetAdapterRequest(name=str(adapter))
    return (await client.adapters.GetAdapter(request, metadata=client.metadata)).adapter


async def get_version(client: Client, version: VersionName) -> adapters_pb.Version:
    request = adapters_pb.GetVersionRequest(name=str(version))
    return (await client.adapters.GetVersion(request, metadata=client.metadata)).version


async def list_versions(client: Client, adapter: AdapterName) -> list[str]:
    """Return the names on the first page."""
    request = adapters_pb.ListVersionsRequest(parent=str(adapter))
    found = await client.adapters.ListVersions(request, metadata=client.metadata)
    return [version.name for version in found.versions]
