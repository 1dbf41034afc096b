"""Adapters, versions and routes: protobuf to domain and back."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from serving_svc.adapters.paging import Page
from serving_svc.api.views import AdapterState, PublishedVersion, Refusal, Resident
from tailorbird.adapters.v1 import adapter_service_pb2 as pb
from tailorbird.errors import DataCorrupt, InvalidArgument
from tailorbird.manifest import REPORT, REPORT_PAGE, AdapterManifest
from tailorbird.names import AdapterName, TenantName, VersionName
from tailorbird.routes import MAX_ROUTED_VERSIONS, MAX_WEIGHT, Route, RoutedVersion
from tailorbird.rpc.judgement import judgement_to_proto

_MAX_CHUNK_BYTES = 3 * 2**20
_MAX_URI_CHARS = 2048

_REPORTS = {
    pb.GetVersionReportRequest.FORMAT_UNSPECIFIED: REPORT_PAGE,
    pb.GetVersionReportRequest.FORMAT_HTML: REPORT_PAGE,
    pb.GetVersionReportRequest.FORMAT_JSON: REPORT,
}
_CONTENT_TYPES = {REPORT_PAGE: "text/html; charset=utf-8", REPORT: "application/json"}
_TIERS = {"disk": pb.ResidentVersion.TIER_DISK, "engine": pb.ResidentVersion.TIER_ENGINE}


def adapters_page(message: pb.ListAdaptersRequest) -> tuple[TenantName, Page]:
    """Read a request for a tenant's adapters."""
    tenant = TenantName.parse(message.parent)
    return tenant, Page.parse(f"{tenant}/adapters", message.page_size, message.page_token)


def versions_page(message: pb.ListVersionsRequest) -> tuple[AdapterName, Page]:
    """Read a request for an adapter's versions."""
    adapter = AdapterName.parse(message.parent, "parent")
    return adapter, Page.parse(f"{adapter}/versions", message.page_size, message.page_token)


def residency_page(message: pb.ListResidencyRequest) -> tuple[TenantName, Page]:
    """Read a request for what this replica holds of a tenant's versions."""
    tenant = TenantName.parse(message.parent)
    return tenant, Page.parse(f"{tenant}/adapters", message.page_size, message.page_token)


def report_request(message: pb.GetVersionReportRequest) -> tuple[VersionName, str]:
    """Read a request for a version's report: of which version, and which of its files."""
    name = VersionName.parse(message.name)
    if message.format not in _REPORTS:
        known = ", ".join(pb.GetVersionReportRequest.Format.keys())
        raise InvalidArgument("format", f"{message.format} is none of {known}")
    return name, _REPORTS[message.format]


def rollback_request(message: pb.RollbackRequest) -> tuple[AdapterName, VersionName | None]:
    """Read a request for an earlier version to be routed."""
    to_version = VersionName.parse(message.to_version, "to_version") if message.to_version else None
    return AdapterName.parse(message.name), to_version


def set_route_request(message: pb.SetRouteRequest) -> tuple[AdapterName, list[RoutedVersion]]:
    """Read the versions that an adapter is to be routed to."""
    adapter = AdapterName.parse(message.name)
    if not 1 <= len(message.versions) <= MAX_ROUTED_VERSIONS:
        raise InvalidArgument(
            "versions", f"{len(message.versions)} are given; 1 to {MAX_ROUTED_VERSIONS} are allowed"
        )
    if message.expected_generation < 0:
        raise InvalidArgument("expected_generation", f"{message.expected_generation} is negative")
    routed: dict[str, RoutedVersion] = {}
    for index, one in enumerate(message.versions):
        field = f"versions[{index}]"
        name = VersionName.parse(one.version, f"{field}.version")
        if name.adapter_name != adapter:
            raise InvalidArgument(f"{field}.version", f"{name} is not a version of {adapter}")
        if name.version in routed:
            raise InvalidArgument(f"{field}.version", f"{name} is given twice")
        if not 1 <= one.weight <= MAX_WEIGHT:
            raise InvalidArgument(f"{field}.weight", f"{one.weight} is not 1 to {MAX_WEIGHT}")
        routed[name.version] = RoutedVersion(version=name.version, weight=one.weight)
    return adapter, list(routed.values())


async def import_header(
    requests: AsyncIterator[pb.ImportAdapterRequest],
) -> tuple[AdapterName, str]:
    """Read an import's first message: the adapter, and the URI or ""."""
    first = await anext(requests, None)
    if first is None or first.WhichOneof("content") != "import":
        raise InvalidArgument("import", "it is missing; the first message says what to import")
    header: pb.ImportAdapterRequest.Import = getattr(first, "import")
    if len(header.uri) > _MAX_URI_CHARS:
        raise InvalidArgument(
            "import.uri",
            f"it has {len(header.uri)} characters; at most {_MAX_URI_CHARS} are allowed",
        )
    return AdapterName.parse(header.adapter, "import.adapter"), header.uri


async def import_pieces(
    requests: AsyncIterator[pb.ImportAdapterRequest],
) -> AsyncGenerator[tuple[str, bytes]]:
    """Yield the pieces of an import's later messages: a file's path, and its next bytes."""
    async for request in requests:
        if request.WhichOneof("content") != "chunk":
            raise InvalidArgument("chunk", "it is missing; every message but the first is one")
        size = len(request.chunk.data)
        if size > _MAX_CHUNK_BYTES:
            raise InvalidArgument(
                "chunk.data", f"it has {size} bytes; at most {_MAX_CHUNK_BYTES} are allowed"
            )
        yield request.chunk.path, request.chunk.data


def adapter(state: AdapterState) -> pb.Adapter:
    """Write an adapter."""
    return pb.Adapter(
        name=str(state.name),
        route=None if state.route is None else route(state.name, state.route),
        effective_generation=state.effective_generation,
        refusals=[refusal(name, why) for name, why in sorted(state.refusals.items())],
    )


def route(name: AdapterName, found: Route) -> pb.Route:
    """Write one generation of an adapter's route."""
    return pb.Route(
        generation=found.generation,
        version=f"{name}/versions/{max(found.versions, key=lambda one: one.weight).version}",
        reason=found.reason,
        actor=found.actor,
        create_time=_timestamp(found.create_time),
        versions=[
            pb.RoutedVersion(version=f"{name}/versions/{one.version}", weight=one.weight)
            for one in found.versions
        ],
    )


def refusal(name: VersionName, why: Refusal) -> pb.Refusal:
    """Write why a version is not served."""
    return pb.Refusal(
        version=str(name),
        reason=why.reason,
        message=why.message,
        retryable=why.retryable,
        retry_time=None if why.retry_at is None else _timestamp(why.retry_at),
    )


def resident(held: Resident) -> pb.ResidentVersion:
    """Write what this replica holds of a version."""
    return pb.ResidentVersion(
        name=str(held.version),
        tier=pb.ResidentVersion.TIER_UNSPECIFIED if held.tier is None else _TIERS[held.tier],
        pinned=held.pinned,
        leases=held.leases,
        size_bytes=held.size,
        refusal=None if held.refusal is None else refusal(held.version, held.refusal),
    )


def version(published: PublishedVersion) -> pb.Version:
    """Write a version."""
    message = pb.Version(name=str(published.name))
    if published.manifest is not None:
        _describe(message, published.manifest)
    if published.refusal is not None:
        message.refusal.CopyFrom(refusal(published.name, published.refusal))
    if published.delete_time is not None:
        message.delete_time.CopyFrom(_timestamp(published.delete_time))
    if published.report is not None and published.report.get("judgement") is not None:
        # One that a later release wrote otherwise hides nothing else of the version.
        with suppress(DataCorrupt):
            message.judgement.CopyFrom(judgement_to_proto(published.report["judgement"]))
    return message


def report(file: str, content: bytes) -> pb.GetVersionReportResponse:
    """Write a version's report."""
    return pb.GetVersionReportResponse(content_type=_CONTENT_TYPES[file], content=content)


def imported(name: VersionName, manifest: AdapterManifest) -> pb.Version:
    """Write a version that has just been made."""
    message = pb.Version(name=str(name))
    _describe(message, manifest)
    return message


def _timestamp(time: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(time)
    return timestamp


def _describe(message: pb.Version, manifest: AdapterManifest) -> None:
    message.create_time.FromDatetime(manifest.create_time)
    message.base_model = manifest.base_model
    message.base_model_digest = manifest.base_model_digest
    message.rank = manifest.rank
    message.alpha = manifest.alpha
    message.target_modules.extend(manifest.target_modules)
    for path, entry in sorted(manifest.files.items()):
        message.files.add(path=path, size_bytes=entry.size, sha256=entry.sha256)
    lineage, evaluation = manifest.lineage, manifest.evaluation
    message.lineage.CopyFrom(
        pb.Version.Lineage(
            job=lineage.job,
            training_dataset=lineage.training_dataset,
            training_dataset_sha256=lineage.training_dataset_sha256,
            spec_sha256=lineage.spec_sha256,
            parent_version=lineage.parent_version,
            code_version=lineage.code_version,
            from_version=lineage.from_version,
        )
    )
    message.evaluation.CopyFrom(
        pb.Version.Evaluation(
            steps=evaluation.steps,
            training_loss=evaluation.training_loss or 0.0,
            validation_loss=evaluation.validation_loss,
            base_validation_loss=evaluation.base_validation_loss,
        )
    )
