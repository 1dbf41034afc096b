from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import pytest

from serving_svc.api import convert_adapters as convert
from tailorbird.adapters.v1 import adapter_service_pb2 as pb
from tailorbird.errors import InvalidArgument
from tailorbird.manifest import AdapterManifest
from tailorbird.names import AdapterName, VersionName
from tailorbird.routes import Route, RoutedVersion
from tests.unit.serving_svc.api.values import MANIFEST

ADAPTER = AdapterName("acme", "support")
VERSIONS = [ADAPTER.version(f"2026010{day}T000000-job-1") for day in (1, 2)]
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Refused:
    reason: str = "NOT_FINITE"
    message: str = "a weight is not finite"
    retryable: bool = False
    retry_at: datetime | None = None


@dataclass(frozen=True)
class Published:
    name: VersionName = VERSIONS[0]
    manifest: AdapterManifest | None = None
    refusal: Refused | None = None
    delete_time: datetime | None = None
    report: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Held:
    version: VersionName = VERSIONS[0]
    tier: Literal["disk", "engine"] | None = "engine"
    pinned: bool = True
    leases: int = 3
    size: int = 2048
    refusal: Refused | None = None


def routed(version: object = VERSIONS[0], weight: int = 100) -> pb.RoutedVersion:
    return pb.RoutedVersion(version=str(version), weight=weight)


def set_route(*versions: pb.RoutedVersion, **more: Any) -> Any:
    return convert.set_route_request(
        pb.SetRouteRequest(name=str(ADAPTER), versions=versions, **more)
    )


def test_a_route_to_be_set_is_read() -> None:
    name, versions = set_route(routed(), routed(VERSIONS[1]), expected_generation=3)
    assert name == ADAPTER
    assert versions == [RoutedVersion(version=version.version, weight=100) for version in VERSIONS]


@pytest.mark.parametrize(
    ("versions", "more", "field", "told"),
    [
        ([], {}, "versions", "0 are given"),
        ([routed()] * 17, {}, "versions", "17"),
        ([routed("x")], {}, "versions[0].version", "'x'"),
        (
            [routed("tenants/acme/adapters/notes/versions/20260101T000000-job-1")],
            {},
            "[0]",
            "not a",
        ),
        ([routed(), routed()], {}, "versions[1].version", "twice"),
        ([routed(weight=0)], {}, "versions[0].weight", "0 is not 1 to 1000"),
        ([routed(weight=1001)], {}, "versions[0].weight", "1001"),
        ([routed()], {"expected_generation": -1}, "expected_generation", "-1"),
    ],
)
def test_a_wrong_route_is_named(
    versions: list[pb.RoutedVersion], more: dict[str, Any], field: str, told: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        set_route(*versions, **more)
    assert field in caught.value.field
    assert told in caught.value.description


def test_a_route_shows_every_version() -> None:
    versions = tuple(RoutedVersion(version=version.version) for version in VERSIONS)
    route = Route.model_construct(
        generation=2, versions=versions, reason="promote", actor="ops", create_time=NOW, nonce="n"
    )
    written = convert.route(ADAPTER, route)
    assert [one.version for one in written.versions] == [str(version) for version in VERSIONS]
    assert written.version == str(VERSIONS[0])
    assert written.create_time.ToDatetime(tzinfo=UTC) == NOW


async def stream(*requests: pb.ImportAdapterRequest) -> AsyncIterator[pb.ImportAdapterRequest]:
    for request in requests:
        yield request


def header(**fields: str) -> pb.ImportAdapterRequest:
    return pb.ImportAdapterRequest(**{"import": pb.ImportAdapterRequest.Import(**fields)})  # type: ignore[arg-type]


def chunk(data: bytes, path: str = "adapter_config.json") -> pb.ImportAdapterRequest:
    return pb.ImportAdapterRequest(chunk=pb.ImportAdapterRequest.FileChunk(path=path, data=data))


async def test_an_import_is_read() -> None:
    requests = stream(header(adapter=str(ADAPTER), uri="s3://b/a"), chunk(b"a"), chunk(b"b", "x"))
    assert await convert.import_header(requests) == (ADAPTER, "s3://b/a")
    pieces = [piece async for piece in convert.import_pieces(requests)]
    assert pieces == [("adapter_config.json", b"a"), ("x", b"b")]


@pytest.mark.parametrize(
    ("requests", "field"),
    [
        ([], "import"),
        ([chunk(b"")], "import"),
        ([header(adapter="x")], "import.adapter"),
        ([header(adapter=str(ADAPTER), uri="x" * 2049)], "import.uri"),
        ([header(adapter=str(ADAPTER)), header(adapter=str(ADAPTER))], "chunk"),
        ([header(adapter=str(ADAPTER)), pb.ImportAdapterRequest()], "chunk"),
        ([header(adapter=str(ADAPTER)), chunk(bytes(3 * 2**20 + 1))], "chunk.data"),
    ],
    ids=str,
)
async def test_a_wrong_import_is_named(requests: list[pb.ImportAdapterRequest], field: str) -> None:
    messages = stream(*requests)
    with pytest.raises(InvalidArgument) as caught:
        await convert.import_header(messages)
        [piece async for piece in convert.import_pieces(messages)]
    assert caught.value.field == field


def test_what_is_held_is_shown() -> None:
    held = convert.resident(Held())
    assert (held.tier, held.pinned, held.leases) == (pb.ResidentVersion.TIER_ENGINE, True, 3)
    assert (held.size_bytes, held.HasField("refusal")) == (2048, False)
    assert convert.resident(Held(tier="disk")).tier == pb.ResidentVersion.TIER_DISK
    refused = convert.resident(Held(tier=None, refusal=Refused(retryable=True, retry_at=NOW)))
    assert refused.tier == pb.ResidentVersion.TIER_UNSPECIFIED
    assert refused.refusal.retryable
    assert refused.refusal.version == str(VERSIONS[0])
    assert refused.refusal.retry_time.ToDatetime(tzinfo=UTC) == NOW


def test_a_version_shows_why_it_is_not_served() -> None:
    assert convert.version(Published()) == pb.Version(name=str(VERSIONS[0]))
    shown = convert.version(Published(refusal=Refused(), delete_time=NOW))
    assert shown.refusal.reason == "NOT_FINITE"
    assert not shown.refusal.HasField("retry_time")
    assert shown.delete_time.ToDatetime(tzinfo=UTC) == NOW


def test_residency_pages_are_the_tenants_own() -> None:
    tenant, page = convert.residency_page(pb.ListResidencyRequest(parent="tenants/acme"))
    assert (str(tenant), page.parent, page.size) == ("tenants/acme", "tenants/acme/adapters", 50)


def test_a_version_says_what_it_was_trained_on_from() -> None:
    parent = str(VERSIONS[1])
    update = {"parent_version": parent, "from_version": parent}
    lineage = MANIFEST.lineage.model_copy(update=update)
    shown = convert.imported(VERSIONS[0], MANIFEST.model_copy(update={"lineage": lineage}))
    assert shown.lineage.from_version == shown.lineage.parent_version == parent
    assert convert.imported(VERSIONS[0], MANIFEST).lineage.from_version == ""


def test_a_version_is_described_by_its_manifest() -> None:
    shown = convert.version(Published(manifest=MANIFEST))
    assert shown == convert.imported(VERSIONS[0], MANIFEST)
    assert (shown.rank, shown.alpha, list(shown.target_modules)) == (8, 16, ["q_proj"])
    assert [(file.path, file.size_bytes) for file in shown.files] == [("adapter_config.json", 7)]
    assert shown.lineage.job == "tenants/acme/jobs/job"
    assert shown.evaluation.validation_loss == 0.5
    assert not shown.evaluation.HasField("base_validation_loss")


JUDGEMENT = {
    "records": 40,
    "candidates": [
        {"candidate": "tuned", "metrics": {"token_f1": {"value": 0.9, "low": 0.8, "high": 1.0}}}
    ],
    "decision": {"promote": True, "reason": "BETTER", "of_a_later_release": 7},
}


def test_a_version_shows_what_was_found_out_about_it() -> None:
    shown = convert.version(Published(report={"judgement": JUDGEMENT})).judgement
    assert (shown.records, shown.decision.reason) == (40, "BETTER")
    assert shown.candidates[0].metrics["token_f1"].high == 1.0


@pytest.mark.parametrize("report", [None, {}, {"judgement": None}, {"judgement": {"records": "x"}}])
def test_a_report_that_says_nothing_of_it_hides_nothing_else(report: Any) -> None:
    shown = convert.version(Published(manifest=MANIFEST, report=report))
    assert not shown.HasField("judgement")
    assert shown == convert.imported(VERSIONS[0], MANIFEST)
