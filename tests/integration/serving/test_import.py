"""Adapters that were trained elsewhere, and what the replica says that it holds."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import grpc
import grpc.aio

from tailorbird.adapters.v1 import adapter_service_pb2 as pb
from tailorbird.names import AdapterName, VersionName
from tests.integration.serving.calls import ask, promote
from tests.integration.serving.process import Client, refusal
from tests.integration.serving.world import World, train_adapter

FILES = ("adapter_config.json", "adapter_model.safetensors")
PIECE = 4096


def header(source: pb.ImportAdapterRequest.Import) -> pb.ImportAdapterRequest:
    request = pb.ImportAdapterRequest()
    getattr(request, "import").CopyFrom(source)
    return request


def upload(adapter: AdapterName, folder: Path) -> Iterator[pb.ImportAdapterRequest]:
    yield header(pb.ImportAdapterRequest.Import(adapter=str(adapter)))
    for name in FILES:
        data = (folder / name).read_bytes()
        for start in range(0, len(data), PIECE):
            chunk = pb.ImportAdapterRequest.FileChunk(path=name, data=data[start : start + PIECE])
            yield pb.ImportAdapterRequest(chunk=chunk)


async def import_(client: Client, adapter: AdapterName, folder: Path) -> pb.Version:
    call = client.adapters.ImportAdapter(upload(adapter, folder), metadata=client.metadata)
    return (await call).version


async def resident(client: Client, version: VersionName) -> pb.ResidentVersion | None:
    request = pb.ListResidencyRequest(parent=f"tenants/{version.tenant}", page_size=1000)
    found = await client.adapters.ListResidency(request, metadata=client.metadata)
    assert found.replica
    return next((one for one in found.versions if one.name == str(version)), None)


async def test_an_uploaded_adapter_becomes_a_version_that_answers_as_peft_does(
    world: World, client: Client, adapter: AdapterName, tmp_path: Path
) -> None:
    told, _ = await asyncio.to_thread(train_adapter, world.base.path, tmp_path, 7, 0.5)
    imported = await import_(client, adapter, tmp_path)
    assert imported.lineage.job == ""
    assert imported.rank == 8
    # Not routed by itself.
    code, reason, _ = await refusal(client.generate(ask(adapter)))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ADAPTER_NOT_ROUTED")
    version = VersionName.parse(imported.name)
    await promote(client, version)
    answer = await client.generate(ask(adapter))
    assert (answer.version, answer.text) == (str(version), told)


async def test_an_adapter_that_does_not_fit_the_base_is_refused_with_the_reason(
    world: World, client: Client, adapter: AdapterName, tmp_path: Path
) -> None:
    await asyncio.to_thread(train_adapter, world.base.path, tmp_path, 8, 0.5)
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    code, reason, _ = await refusal(import_(client, adapter, tmp_path))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TENSOR_MISMATCH")
    request = pb.GetAdapterRequest(name=str(adapter))
    code, _, _ = await refusal(client.adapters.GetAdapter(request, metadata=client.metadata))
    assert code == grpc.StatusCode.NOT_FOUND


async def test_another_tenants_name_and_a_uri_that_is_not_allowed_are_refused(
    world: World, client: Client, adapter: AdapterName, tmp_path: Path
) -> None:
    await asyncio.to_thread(train_adapter, world.base.path, tmp_path, 9, 0.5)
    code, _, _ = await refusal(import_(client, AdapterName("globex", "stolen"), tmp_path))
    assert code == grpc.StatusCode.NOT_FOUND
    source = pb.ImportAdapterRequest.Import(adapter=str(adapter), uri=tmp_path.as_uri())
    asked = iter([header(source)])
    call = client.adapters.ImportAdapter(asked, metadata=client.metadata)
    code, reason, _ = await refusal(call)
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "URI_NOT_ALLOWED")


async def test_what_is_warmed_and_pinned_is_shown_and_stays(
    world: World, client: Client, adapter: AdapterName
) -> None:
    version = await world.publish(adapter)
    assert await resident(client, version) is None
    for pin in (True, None, False):
        request = pb.WarmVersionRequest(name=str(version))
        if pin is not None:
            request.pin = pin
        warmed = await client.adapters.WarmVersion(request, metadata=client.metadata)
        assert warmed.resident.tier == pb.ResidentVersion.TIER_ENGINE
        assert warmed.resident.pinned is (pin is not False)
    shown = await resident(client, version)
    assert shown is not None
    assert shown.size_bytes > 0
    assert not shown.HasField("refusal")


async def test_a_refused_version_is_shown_with_its_reason(
    world: World, client: Client, adapter: AdapterName
) -> None:
    def cut(folder: Path) -> None:
        shutil.copy(folder / FILES[0], folder / FILES[1])

    version = await world.publish(adapter, corrupt=cut)
    request = pb.WarmVersionRequest(name=str(version))
    code, reason, _ = await refusal(client.adapters.WarmVersion(request, metadata=client.metadata))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    shown = await resident(client, version)
    assert shown is not None
    assert (shown.tier, shown.refusal.reason) == (pb.ResidentVersion.TIER_UNSPECIFIED, reason)
    assert not shown.refusal.retryable
    got = await client.adapters.GetVersion(
        pb.GetVersionRequest(name=str(version)), metadata=client.metadata
    )
    assert got.version.refusal.reason == reason
