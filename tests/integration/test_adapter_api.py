"""AdapterService's edge over a real socket: each method reaches its use case, as its caller."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from serving_svc.api.adapter_servicer import AdapterServicer
from tailorbird.adapters.v1 import adapter_service_pb2 as pb
from tailorbird.adapters.v1 import adapter_service_pb2_grpc as pb_grpc
from tailorbird.routes import Route, RoutedVersion
from tailorbird.rpc.auth import Caller, TokenVerifier
from tailorbird.rpc.server import RpcServer
from tests.unit.serving_svc.api.test_convert_adapters import ADAPTER, VERSIONS, Held, Published
from tests.unit.serving_svc.api.values import MANIFEST

FOREIGN = "tenants/globex/adapters/notes"
FOREIGN_VERSION = f"{FOREIGN}/versions/20260101T000000-job-1"
ROUTE = Route.model_construct(
    generation=4,
    versions=(RoutedVersion(version=VERSIONS[0].version),),
    reason="promote",
    actor="billing",
    create_time=datetime(2026, 1, 1, tzinfo=UTC),
    nonce="n",
)


class UseCases:
    """Stands for all three use cases, and remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        answers: dict[str, Any] = {
            "promote": ROUTE,
            "rollback": ROUTE,
            "set_route": ROUTE,
            "warm_version": Held(),
            "delete_version": Published(),
            "get_version": Published(),
            "list_residency": ([Held()], "more"),
            "list_versions": ([Published()], ""),
            "list_adapters": ([], ""),
        }

        async def answer(*arguments: Any) -> Any:
            self.asked.append((name, *arguments))
            return answers[name]

        return answer

    async def import_(self, adapter: Any, source: Any) -> Any:
        received = source if isinstance(source, str) else [piece async for piece in source]
        self.asked.append(("import_", adapter, received))
        return VERSIONS[0], MANIFEST


@pytest.fixture
def use_cases() -> UseCases:
    return UseCases()


@pytest.fixture
async def stub(use_cases: UseCases) -> AsyncIterator[Any]:
    digest = hashlib.sha256(b"t1").hexdigest()
    verifier = TokenVerifier({digest: Caller("billing", frozenset({"acme"}))})
    server = RpcServer("127.0.0.1", 0, verifier, CollectorRegistry(), [])
    pb_grpc.add_AdapterServiceServicer_to_server(
        AdapterServicer(use_cases, use_cases, use_cases, "serving-0"), server.grpc
    )
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield pb_grpc.AdapterServiceStub(channel)
    await server.stop(0)


TOKEN = (("authorization", "Bearer t1"),)


def an_import(adapter: str, uri: str = "") -> list[pb.ImportAdapterRequest]:
    content: Any = {"import": pb.ImportAdapterRequest.Import(adapter=adapter, uri=uri)}
    chunk = pb.ImportAdapterRequest.FileChunk(path="adapter_config.json", data=b"{}")
    return [pb.ImportAdapterRequest(**content), pb.ImportAdapterRequest(chunk=chunk)]


async def test_changes_carry_who_asked(stub: Any, use_cases: UseCases) -> None:
    version, adapter = str(VERSIONS[0]), str(ADAPTER)
    routed = [pb.RoutedVersion(version=version, weight=100)]
    await stub.Promote(pb.PromoteRequest(name=version), metadata=TOKEN)
    await stub.Rollback(pb.RollbackRequest(name=adapter), metadata=TOKEN)
    found = await stub.SetRoute(
        pb.SetRouteRequest(name=adapter, versions=routed, expected_generation=3), metadata=TOKEN
    )
    await stub.DeleteVersion(pb.DeleteVersionRequest(name=version), metadata=TOKEN)
    assert found.route.generation == 4
    assert use_cases.asked == [
        ("promote", VERSIONS[0], "billing"),
        ("rollback", ADAPTER, None, "billing"),
        ("set_route", ADAPTER, list(ROUTE.versions), 3, "billing"),
        ("delete_version", VERSIONS[0], "billing"),
    ]


async def test_a_warm_up_pins_only_when_asked(stub: Any, use_cases: UseCases) -> None:
    for pin in (None, True, False):
        request = pb.WarmVersionRequest(name=str(VERSIONS[0]), pin=pin)
        assert (await stub.WarmVersion(request, metadata=TOKEN)).resident.pinned
    assert [asked[2] for asked in use_cases.asked] == [None, True, False]


async def test_residency_names_the_replica(stub: Any) -> None:
    request = pb.ListResidencyRequest(parent="tenants/acme")
    page = await stub.ListResidency(request, metadata=TOKEN)
    assert (page.replica, page.next_page_token, len(page.versions)) == ("serving-0", "more", 1)


async def test_an_import_is_of_a_uri_or_of_files(stub: Any, use_cases: UseCases) -> None:
    for uri in ("s3://bucket/adapter", ""):
        answer = await stub.ImportAdapter(iter(an_import(str(ADAPTER), uri)), metadata=TOKEN)
        assert (answer.version.name, answer.version.rank) == (str(VERSIONS[0]), MANIFEST.rank)
    assert use_cases.asked == [
        ("import_", ADAPTER, "s3://bucket/adapter"),
        ("import_", ADAPTER, [("adapter_config.json", b"{}")]),
    ]


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("ListAdapters", pb.ListAdaptersRequest(parent="tenants/globex")),
        ("GetAdapter", pb.GetAdapterRequest(name=FOREIGN)),
        ("ListVersions", pb.ListVersionsRequest(parent=FOREIGN)),
        ("GetVersion", pb.GetVersionRequest(name=FOREIGN_VERSION)),
        ("GetVersionReport", pb.GetVersionReportRequest(name=FOREIGN_VERSION)),
        ("Promote", pb.PromoteRequest(name=FOREIGN_VERSION)),
        ("Rollback", pb.RollbackRequest(name=FOREIGN)),
        (
            "SetRoute",
            pb.SetRouteRequest(
                name=FOREIGN, versions=[pb.RoutedVersion(version=FOREIGN_VERSION, weight=100)]
            ),
        ),
        ("WarmVersion", pb.WarmVersionRequest(name=FOREIGN_VERSION)),
        ("DeleteVersion", pb.DeleteVersionRequest(name=FOREIGN_VERSION)),
        ("ListResidency", pb.ListResidencyRequest(parent="tenants/globex")),
        ("ImportAdapter", an_import(FOREIGN)),
    ],
)
async def test_another_tenants_adapters_do_not_exist(
    stub: Any, use_cases: UseCases, method: str, request_: Any
) -> None:
    sent = iter(request_) if isinstance(request_, list) else request_
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await getattr(stub, method)(sent, metadata=TOKEN)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert use_cases.asked == []
