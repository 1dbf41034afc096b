"""AdapterService at the gRPC edge: each method converts, calls once, converts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, Protocol

import grpc

from serving_svc.adapters.paging import Page
from serving_svc.api import convert_adapters as convert
from serving_svc.api.views import AdapterState, PublishedVersion, Resident
from tailorbird.adapters.v1 import adapter_service_pb2 as pb
from tailorbird.adapters.v1 import adapter_service_pb2_grpc as pb_grpc
from tailorbird.manifest import AdapterManifest
from tailorbird.names import AdapterName, TenantName, VersionName
from tailorbird.routes import Route, RoutedVersion
from tailorbird.rpc.auth import current_caller

_Context = grpc.aio.ServicerContext[Any, Any]


class Adapters(Protocol):
    """What the edge needs to show adapters, to move routes and to delete versions."""

    async def list_adapters(
        self, tenant: TenantName, page: Page
    ) -> tuple[Sequence[AdapterState], str]:
        """Return a page of the tenant's adapters, and the next page's token."""

    async def get_adapter(self, name: AdapterName) -> AdapterState:
        """Return an adapter."""

    async def list_versions(
        self, adapter: AdapterName, page: Page
    ) -> tuple[Sequence[PublishedVersion], str]:
        """Return a page of the adapter's versions, and the next page's token."""

    async def get_version(self, name: VersionName) -> PublishedVersion:
        """Return a version."""

    async def get_report(self, name: VersionName, file: str) -> bytes:
        """Return a version's report.json or report.html."""

    async def promote(self, version: VersionName, actor: str) -> Route:
        """Route the adapter to `version`; return the newest route."""

    async def rollback(
        self, adapter: AdapterName, to_version: VersionName | None, actor: str
    ) -> Route:
        """Route the adapter back; return the newest route."""

    async def set_route(
        self,
        adapter: AdapterName,
        versions: Sequence[RoutedVersion],
        expected_generation: int,
        actor: str,
    ) -> Route:
        """Route the adapter to `versions`; 0 expects any generation. Return the newest route."""

    async def delete_version(self, version: VersionName, actor: str) -> PublishedVersion:
        """Delete a version."""


class Residents(Protocol):
    """What the edge needs of what this replica holds."""

    async def warm_version(self, version: VersionName, pin: bool | None) -> Resident:
        """Load a version, and pin or unpin it unless `pin` is None."""

    async def list_residency(
        self, tenant: TenantName, page: Page
    ) -> tuple[Sequence[Resident], str]:
        """Return a page of the tenant's versions held here, and the next page's token."""


class AdapterImporter(Protocol):
    """What the edge needs to import an adapter."""

    async def import_(
        self, adapter: AdapterName, source: str | AsyncIterator[tuple[str, bytes]]
    ) -> tuple[VersionName, AdapterManifest]:
        """Make a version of the adapter at a URI, or of the one whose files' pieces come."""


class AdapterServicer(pb_grpc.AdapterServiceServicer):
    """See adapter_service.proto."""

    def __init__(
        self, adapters: Adapters, residents: Residents, importer: AdapterImporter, replica: str
    ) -> None:
        self._adapters = adapters
        self._residents = residents
        self._importer = importer
        self._replica = replica

    async def ListAdapters(
        self, request: pb.ListAdaptersRequest, context: _Context
    ) -> pb.ListAdaptersResponse:
        """See the proto."""
        tenant, page = convert.adapters_page(request)
        current_caller().check(tenant)
        states, token = await self._adapters.list_adapters(tenant, page)
        return pb.ListAdaptersResponse(adapters=map(convert.adapter, states), next_page_token=token)

    async def GetAdapter(
        self, request: pb.GetAdapterRequest, context: _Context
    ) -> pb.GetAdapterResponse:
        """See the proto."""
        name = AdapterName.parse(request.name)
        current_caller().check(name)
        state = await self._adapters.get_adapter(name)
        return pb.GetAdapterResponse(adapter=convert.adapter(state))

    async def ListVersions(
        self, request: pb.ListVersionsRequest, context: _Context
    ) -> pb.ListVersionsResponse:
        """See the proto."""
        name, page = convert.versions_page(request)
        current_caller().check(name)
        versions, token = await self._adapters.list_versions(name, page)
        return pb.ListVersionsResponse(
            versions=map(convert.version, versions), next_page_token=token
        )

    async def GetVersion(
        self, request: pb.GetVersionRequest, context: _Context
    ) -> pb.GetVersionResponse:
        """See the proto."""
        name = VersionName.parse(request.name)
        current_caller().check(name)
        found = await self._adapters.get_version(name)
        return pb.GetVersionResponse(version=convert.version(found))

    async def GetVersionReport(
        self, request: pb.GetVersionReportRequest, context: _Context
    ) -> pb.GetVersionReportResponse:
        """See the proto."""
        name, file = convert.report_request(request)
        current_caller().check(name)
        content = await self._adapters.get_report(name, file)
        return convert.report(file, content)

    async def Promote(self, request: pb.PromoteRequest, context: _Context) -> pb.PromoteResponse:
        """See the proto."""
        name = VersionName.parse(request.name)
        current_caller().check(name)
        route = await self._adapters.promote(name, current_caller().subject)
        return pb.PromoteResponse(route=convert.route(name.adapter_name, route))

    async def Rollback(self, request: pb.RollbackRequest, context: _Context) -> pb.RollbackResponse:
        """See the proto."""
        name, to_version = convert.rollback_request(request)
        current_caller().check(name)
        route = await self._adapters.rollback(name, to_version, current_caller().subject)
        return pb.RollbackResponse(route=convert.route(name, route))

    async def SetRoute(self, request: pb.SetRouteRequest, context: _Context) -> pb.SetRouteResponse:
        """See the proto."""
        name, versions = convert.set_route_request(request)
        current_caller().check(name)
        route = await self._adapters.set_route(
            name, versions, request.expected_generation, current_caller().subject
        )
        return pb.SetRouteResponse(route=convert.route(name, route))

    async def WarmVersion(
        self, request: pb.WarmVersionRequest, context: _Context
    ) -> pb.WarmVersionResponse:
        """See the proto."""
        name = VersionName.parse(request.name)
        current_caller().check(name)
        pin = request.pin if request.HasField("pin") else None
        held = await self._residents.warm_version(name, pin)
        return pb.WarmVersionResponse(resident=convert.resident(held))

    async def DeleteVersion(
        self, request: pb.DeleteVersionRequest, context: _Context
    ) -> pb.DeleteVersionResponse:
        """See the proto."""
        name = VersionName.parse(request.name)
        current_caller().check(name)
        deleted = await self._adapters.delete_version(name, current_caller().subject)
        return pb.DeleteVersionResponse(version=convert.version(deleted))

    async def ImportAdapter(
        self, request_iterator: AsyncIterator[pb.ImportAdapterRequest], context: _Context
    ) -> pb.ImportAdapterResponse:
        """See the proto."""
        adapter, uri = await convert.import_header(request_iterator)
        current_caller().check(adapter)
        async with aclosing(convert.import_pieces(request_iterator)) as pieces:
            name, manifest = await self._importer.import_(adapter, uri or pieces)
        return pb.ImportAdapterResponse(version=convert.imported(name, manifest))

    async def ListResidency(
        self, request: pb.ListResidencyRequest, context: _Context
    ) -> pb.ListResidencyResponse:
        """See the proto."""
        tenant, page = convert.residency_page(request)
        current_caller().check(tenant)
        held, token = await self._residents.list_residency(tenant, page)
        return pb.ListResidencyResponse(
            replica=self._replica, versions=map(convert.resident, held), next_page_token=token
        )
