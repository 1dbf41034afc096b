"""The gRPC edge: each method converts, calls once, converts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from serving_svc.adapters.service import Adapters
from serving_svc.api import convert
from serving_svc.generation.model import GenerationRequest
from serving_svc.generation.service import Generations
from tailorbird.adapters.v1 import adapter_service_pb2 as adapters_pb
from tailorbird.adapters.v1 import adapter_service_pb2_grpc as adapters_grpc
from tailorbird.names import AdapterName, VersionName
from tailorbird.rpc.auth import current_caller
from tailorbird.serving.v1 import inference_service_pb2 as pb
from tailorbird.serving.v1 import inference_service_pb2_grpc as pb_grpc

_Context = grpc.aio.ServicerContext[Any, Any]


class InferenceServicer(pb_grpc.InferenceServiceServicer):
    """See inference_service.proto."""

    def __init__(
        self, generations: Generations, info: pb.GetServerInfoResponse, vocab_size: int
    ) -> None:
        self._generations = generations
        self._info = info
        self._vocab_size = vocab_size

    async def Generate(self, request: pb.GenerateRequest, context: _Context) -> pb.GenerateResponse:
        """See the proto."""
        answer = await self._generations.generate(self._checked(request))
        return convert.generate_response(answer)

    async def StreamGenerate(
        self, request: pb.StreamGenerateRequest, context: _Context
    ) -> AsyncIterator[pb.StreamGenerateResponse]:
        """See the proto."""
        async with aclosing(self._generations.stream(self._checked(request.request))) as chunks:
            async for chunk in chunks:
                yield convert.stream_response(chunk)

    async def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: _Context
    ) -> pb.GetServerInfoResponse:
        """See the proto."""
        return self._info

    def _checked(self, message: pb.GenerateRequest) -> GenerationRequest:
        request = convert.generation_request(message, self._vocab_size)
        current_caller().check(request.adapter or request.tenant)
        return request


class AdapterServicer(adapters_grpc.AdapterServiceServicer):
    """See adapter_service.proto."""

    def __init__(self, adapters: Adapters) -> None:
        self._adapters = adapters

    async def ListAdapters(
        self, request: adapters_pb.ListAdaptersRequest, context: _Context
    ) -> adapters_pb.ListAdaptersResponse:
        """See the proto."""
        tenant, page = convert.adapters_page(request)
        current_caller().check(tenant)
        states, token = await self._adapters.list_adapters(tenant, page)
        return adapters_pb.ListAdaptersResponse(
            adapters=map(convert.adapter, states), next_page_token=token
        )

    async def GetAdapter(
        self, request: adapters_pb.GetAdapterRequest, context: _Context
    ) -> adapters_pb.GetAdapterResponse:
        """See the proto."""
        name = AdapterName.parse(request.name)
        current_caller().check(name)
        state = await self._adapters.get_adapter(name)
        return adapters_pb.GetAdapterResponse(adapter=convert.adapter(state))

    async def ListVersions(
        self, request: adapters_pb.ListVersionsRequest, context: _Context
    ) -> adapters_pb.ListVersionsResponse:
        """See the proto."""
        name, page = convert.versions_page(request)
        current_caller().check(name)
        versions, token = await self._adapters.list_versions(name, page)
        return adapters_pb.ListVersionsResponse(
            versions=map(convert.version, versions), next_page_token=token
        )

    async def GetVersion(
        self, request: adapters_pb.GetVersionRequest, context: _Context
    ) -> adapters_pb.GetVersionResponse:
        """See the proto."""
        name = VersionName.parse(request.name)
        current_caller().check(name)
        found = await self._adapters.get_version(name)
        return adapters_pb.GetVersionResponse(version=convert.version(found))

    async def Promote(
        self, request: adapters_pb.PromoteRequest, context: _Context
    ) -> adapters_pb.PromoteResponse:
        """See the proto."""
        name = VersionName.parse(request.name)
        current_caller().check(name)
        route = await self._adapters.promote(name, current_caller().subject)
        return adapters_pb.PromoteResponse(route=convert.route(name.adapter_name, route))

    async def Rollback(
        self, request: adapters_pb.RollbackRequest, context: _Context
    ) -> adapters_pb.RollbackResponse:
        """See the proto."""
        name, to_version = convert.rollback_request(request)
        current_caller().check(name)
        route = await self._adapters.rollback(name, to_version, current_caller().subject)
        return adapters_pb.RollbackResponse(route=convert.route(name, route))
