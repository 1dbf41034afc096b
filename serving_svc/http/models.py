"""/v1/models: the base model, and the caller's adapters that have a route."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serving_svc.adapters.paging import Page
from serving_svc.adapters.service import AdapterState, PublishedVersion
from serving_svc.http.naming import named, no_such_model
from tailorbird.errors import NotFound
from tailorbird.http.tenant import tenant_of
from tailorbird.metadata import TENANT
from tailorbird.names import AdapterName, TenantName, VersionName
from tailorbird.rpc.auth import Caller, current_caller

_PAGE = 1000


class Adapters(Protocol):
    """What listing models needs of the registry."""

    async def list_adapters(self, tenant: TenantName, page: Page) -> tuple[list[AdapterState], str]:
        """Return a page of the tenant's adapters, and the next page's token."""

    async def get_adapter(self, name: AdapterName) -> AdapterState:
        """Return an adapter; NotFound."""

    async def get_version(self, name: VersionName) -> PublishedVersion:
        """Return a version; NotFound."""


class Models:
    """Answers for models; `started` is when this server began to serve the base."""

    def __init__(
        self, adapters: Adapters, base: str, max_model_len: int, started: datetime
    ) -> None:
        self._adapters = adapters
        self._base = base
        self._max_model_len = max_model_len
        self._started = started

    async def every(self, request: Request) -> Response:
        """Answer GET /v1/models, base first."""
        found = [self._base_model()]
        for tenant in _tenants(request.headers, current_caller()):
            found += await self._of(tenant)
        return JSONResponse({"object": "list", "data": found})

    async def one(self, request: Request) -> Response:
        """Answer GET /v1/models/{model}."""
        model = request.path_params["model"]
        caller = current_caller()
        if model == self._base:
            return JSONResponse(self._base_model())
        what = named(model, request.headers, caller, self._base)
        try:
            if what.version is not None:
                version = await self._adapters.get_version(what.version)
                if version.delete_time is None and version.manifest is not None:
                    return JSONResponse(self._model(version.name, version.manifest.create_time))
            elif what.adapter is not None:
                state = await self._adapters.get_adapter(what.adapter)
                if state.route is not None:
                    return JSONResponse(self._model(state.name, state.route.create_time))
        except NotFound:
            pass
        raise no_such_model(model)

    async def _of(self, tenant: TenantName) -> list[dict[str, Any]]:
        page, states = Page(str(tenant), _PAGE), list[AdapterState]()
        while True:
            found, token = await self._adapters.list_adapters(tenant, page)
            states += found
            if not token:
                break
            page = Page.parse(str(tenant), _PAGE, token)
        return [
            self._model(state.name, state.route.create_time)
            for state in states
            if state.route is not None
        ]

    def _base_model(self) -> dict[str, Any]:
        return {
            "id": self._base,
            "object": "model",
            "created": int(self._started.timestamp()),
            "owned_by": "tailorbird",
            "max_model_len": self._max_model_len,
        }

    def _model(self, name: AdapterName | VersionName, created: datetime) -> dict[str, Any]:
        return {
            "id": str(name),
            "object": "model",
            "created": int(created.timestamp()),
            "owned_by": f"tenants/{name.tenant}",
            "parent": self._base,
            "max_model_len": self._max_model_len,
        }


def _tenants(headers: Mapping[str, str], caller: Caller) -> list[TenantName]:
    """Return those whose adapters are listed: all of the caller's unless it names one."""
    if caller.tenants is None or headers.get(TENANT):
        return [tenant_of(headers, caller)]
    return [TenantName(tenant) for tenant in sorted(caller.tenants)]
