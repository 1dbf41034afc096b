"""A version's report over a real socket, out of a real store: as it was published, or not."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from serving_svc.adapters.service import Adapters
from serving_svc.api.adapter_servicer import AdapterServicer
from tailorbird.adapters.v1 import adapter_service_pb2 as pb
from tailorbird.adapters.v1 import adapter_service_pb2_grpc as pb_grpc
from tailorbird.manifest import MAX_REPORT_BYTES, REPORT, REPORT_PAGE, FileEntry
from tailorbird.names import VersionName
from tailorbird.rpc.auth import Caller, TokenVerifier
from tailorbird.rpc.server import RpcServer
from tailorbird.rpc.status import reason_of
from tests.unit.serving_svc.adapters import routed
from tests.unit.serving_svc.adapters.routed import manifest, version
from tests.unit.serving_svc.adapters.test_adapters_service import Refusals

CONTENT = {REPORT_PAGE: b"<!DOCTYPE html><p>\xc3\xbc</p>", REPORT: b'{"judgement": null}'}
Format = pb.GetVersionReportRequest
GIVEN = version(1)


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[routed.Parts]:
    parts = routed.Parts(tmp_path)
    yield parts
    await parts.close()


@pytest.fixture
async def stub(parts: routed.Parts) -> AsyncIterator[Any]:
    tokens = {"ours": frozenset({"acme"}), "theirs": frozenset({"globex"})}
    verifier = TokenVerifier(
        {
            hashlib.sha256(token.encode()).hexdigest(): Caller(token, tenants)
            for token, tenants in tokens.items()
        }
    )
    server = RpcServer("127.0.0.1", 0, verifier, CollectorRegistry(), [])
    adapters = Adapters(parts.registry, parts.router, parts.gate, Refusals(), slots=4)
    unused: Any = None
    pb_grpc.add_AdapterServiceServicer_to_server(
        AdapterServicer(adapters, unused, unused, "serving-0"), server.grpc
    )
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield pb_grpc.AdapterServiceStub(channel)
    await server.stop(0)


async def publish(
    parts: routed.Parts, name: VersionName = GIVEN, content: dict[str, bytes] = CONTENT
) -> None:
    entries = {}
    for file, data in content.items():
        await parts.registry.store.create(f"{name}/{file}", data)
        entries[file] = FileEntry(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    made = manifest(name)
    files = {**made.files, **entries}
    await parts.registry.publish(name, made.model_copy(update={"files": files}))


async def ask(
    stub: Any, name: object = GIVEN, format_: int = Format.FORMAT_HTML, token: str = "ours"
) -> pb.GetVersionReportResponse:
    answer: pb.GetVersionReportResponse = await stub.GetVersionReport(
        pb.GetVersionReportRequest(name=str(name), format=format_),  # type: ignore[arg-type]
        metadata=(("authorization", f"Bearer {token}"),),
    )
    return answer


async def refusal(asked: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asked
    return caught.value.code(), reason_of(caught.value)


@pytest.mark.parametrize(
    ("format_", "file", "content_type"),
    [
        (Format.FORMAT_UNSPECIFIED, REPORT_PAGE, "text/html; charset=utf-8"),
        (Format.FORMAT_HTML, REPORT_PAGE, "text/html; charset=utf-8"),
        (Format.FORMAT_JSON, REPORT, "application/json"),
    ],
)
async def test_a_report_comes_as_it_was_published(
    parts: routed.Parts, stub: Any, format_: int, file: str, content_type: str
) -> None:
    await publish(parts)
    answer = await ask(stub, format_=format_)
    assert (answer.content_type, answer.content) == (content_type, CONTENT[file])


async def test_the_largest_report_fits_into_an_answer(parts: routed.Parts, stub: Any) -> None:
    largest = b"x" * MAX_REPORT_BYTES
    await publish(parts, content={REPORT_PAGE: largest})
    assert (await ask(stub)).content == largest


async def test_another_tenants_report_does_not_exist(parts: routed.Parts, stub: Any) -> None:
    await publish(parts)
    code, _ = await refusal(ask(stub, token="theirs"))
    assert code is grpc.StatusCode.NOT_FOUND


async def test_a_version_without_a_report_says_so(parts: routed.Parts, stub: Any) -> None:
    await publish(parts, content={REPORT: CONTENT[REPORT]})
    assert await refusal(ask(stub)) == (grpc.StatusCode.NOT_FOUND, "REPORT_NOT_FOUND")
    assert (await ask(stub, format_=Format.FORMAT_JSON)).content == CONTENT[REPORT]
    absent = await refusal(ask(stub, version(2)))
    assert absent == (grpc.StatusCode.NOT_FOUND, "VERSION_NOT_FOUND")


@pytest.mark.parametrize("stored", [b"<script>", None, b"x" * (MAX_REPORT_BYTES + 1)])
async def test_what_was_not_published_is_not_shown(
    parts: routed.Parts, stub: Any, stored: bytes | None
) -> None:
    await publish(parts)
    key = f"{GIVEN}/{REPORT_PAGE}"
    if stored is None:
        await parts.registry.store.delete(key)
    else:
        await parts.registry.store.put(key, stored)
    assert await refusal(ask(stub)) == (grpc.StatusCode.DATA_LOSS, "REPORT_INVALID")


async def test_a_version_that_was_deleted_and_collected_has_none_any_more(
    parts: routed.Parts, stub: Any
) -> None:
    await publish(parts)
    await parts.registry.bury(GIVEN, "test")
    for file in CONTENT:
        await parts.registry.store.delete(f"{GIVEN}/{file}")
    assert await refusal(ask(stub)) == (grpc.StatusCode.NOT_FOUND, "VERSION_DELETED")
    found = await stub.GetVersion(
        pb.GetVersionRequest(name=str(GIVEN)), metadata=(("authorization", "Bearer ours"),)
    )
    assert found.version.name == str(GIVEN)
    assert found.version.HasField("delete_time")


async def test_a_report_too_long_is_not_shown_though_it_was_published(
    parts: routed.Parts, stub: Any
) -> None:
    await publish(parts, content={REPORT_PAGE: b"x" * (MAX_REPORT_BYTES + 1)})
    assert await refusal(ask(stub)) == (grpc.StatusCode.DATA_LOSS, "REPORT_INVALID")


async def test_a_format_that_is_none_is_refused(parts: routed.Parts, stub: Any) -> None:
    await publish(parts)
    code, _ = await refusal(ask(stub, format_=9))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    code, _ = await refusal(ask(stub, "tenants/acme/adapters/support"))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
