"""Serving's client: see `tailorbird.client`."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, aclosing
from pathlib import Path
from typing import BinaryIO, Self, Unpack

from tailorbird.adapters.v1 import adapter_service_pb2 as adapters
from tailorbird.adapters.v1.adapter_service_pb2_grpc import AdapterServiceStub
from tailorbird.aio.connection import AsyncConnection
from tailorbird.chat_request import ChatOptions, chat_request
from tailorbird.retry import RETRIES
from tailorbird.serving.v1 import inference_service_pb2 as serving
from tailorbird.serving.v1.inference_service_pb2_grpc import InferenceServiceStub

_PROMOTION_TIMEOUT = 600.0
_CHUNK_BYTES = 2**20
_FILES = ("adapter_config.json", "adapter_model.safetensors")


class AsyncServingClient:
    """Serving: generations, and the adapters that answer them. Arguments as for AsyncTrainerClient.

    A generation is never sent twice: the first one may have been answered, or have been the cause
    of the failure. `stub` and `adapter_stub` are the generated ones, for whatever is not here:
    their calls carry the token.

    >>> from tailorbird.client import AsyncServingClient
    >>> async with AsyncServingClient(address, "a token") as serving:
    ...     print(await serving.generate_text("tenants/acme/adapters/support", "Hello?"))
    Good morning.
    """

    def __init__(
        self,
        address: str,
        token: str | None = None,
        *,
        root_certificates: bytes | None = None,
        plaintext: bool = False,
        retries: int = RETRIES,
    ) -> None:
        self._connection = AsyncConnection(address, token, root_certificates, plaintext, retries)
        self.stub = InferenceServiceStub(self._connection.channel)
        self.adapter_stub = AdapterServiceStub(self._connection.channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channel; calls in flight, and later ones, are Cancelled (CLIENT_CLOSED).

        >>> await serving.close()
        """
        await self._connection.close()

    async def generate(
        self,
        request: serving.GenerateRequest,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the call's own deadline
    ) -> serving.GenerateResponse:
        """Generate, and return when done; see `chat_request`.

        >>> from tailorbird.client import chat_request
        >>> request = chat_request("tenants/acme/adapters/support", "Hello?", temperature=0)
        >>> response = await serving.generate(request)
        >>> response.text, response.version.rpartition("/")[2]
        ('Good morning.', '20261122T100000-job-1')
        """
        return await self._connection.call(
            self.stub.Generate, request, timeout=timeout, model=_model(request)
        )

    def stream_generate(
        self,
        request: serving.GenerateRequest,
        *,
        timeout: float | None = None,
    ) -> AsyncGenerator[serving.StreamGenerateResponse]:
        """Yield an answer as it comes; the last piece has a finish_reason.

        Closing it ends the generation.

        >>> from tailorbird.client import chat_request
        >>> request = chat_request("tenants/acme/adapters/support", "Hello?", temperature=0)
        >>> async for piece in serving.stream_generate(request):
        ...     print(repr(piece.text), piece.usage.completion_tokens)
        'Good ' 0
        'morning.' 0
        '' 2
        """
        return self._connection.stream(
            self.stub.StreamGenerate,
            serving.StreamGenerateRequest(request=request),
            timeout=timeout,
            model=_model(request),
        )

    async def generate_text(
        self,
        model: str,
        text: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the call's own deadline
        **options: Unpack[ChatOptions],
    ) -> str:
        """Ask `model` one thing and return what it says; the options are those of `chat_request`.

        >>> adapter = "tenants/acme/adapters/support"
        >>> await serving.generate_text(adapter, "Hello?", temperature=0, max_tokens=20)
        'Good morning.'
        """
        response = await self.generate(chat_request(model, text, **options), timeout=timeout)
        return response.text

    async def stream_text(
        self,
        model: str,
        text: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the call's own deadline
        **options: Unpack[ChatOptions],
    ) -> AsyncGenerator[str]:
        """Ask `model` one thing and yield what it says as it comes. Closing it ends the generation.

        >>> pieces = serving.stream_text("tenants/acme/adapters/support", "Hello?", temperature=0)
        >>> [piece async for piece in pieces]
        ['Good ', 'morning.']
        """
        answer = self.stream_generate(chat_request(model, text, **options), timeout=timeout)
        async with aclosing(answer) as pieces:
            async for piece in pieces:
                if piece.text:
                    yield piece.text

    async def record_feedback(
        self,
        request: serving.RecordFeedbackRequest,
        *,
        timeout: float | None = 60.0,  # noqa: ASYNC109 - the call's own deadline
    ) -> serving.RecordFeedbackResponse:
        """Keep an answer for a later training; see `feedback_request`.

        Without a request id the request gets one, which it keeps: sent again, it is one record.

        >>> from tailorbird.client import feedback_request
        >>> version = "tenants/acme/adapters/support/versions/20261122T100000-job-1"
        >>> request = feedback_request(version, "Where is it?", "Here.", correction="On its way.")
        >>> response = await serving.record_feedback(request)
        >>> dict(response.redactions)
        {'email': 2}
        """
        request.request_id = request.request_id or uuid.uuid4().hex
        model = request.version.partition("/versions/")[0]
        return await self._connection.call(
            self.stub.RecordFeedback, request, timeout=timeout, model=model, again=True
        )

    def list_adapters(self, parent: str) -> AsyncIterator[adapters.Adapter]:
        """Yield a tenant's adapters by name; pages are fetched as they are needed.

        >>> [adapter.name async for adapter in serving.list_adapters("tenants/acme")]
        ['tenants/acme/adapters/support']
        """
        request = adapters.ListAdaptersRequest(parent=parent)
        return self._connection.items(
            self.adapter_stub.ListAdapters, request, lambda page: page.adapters
        )

    async def get_adapter(self, name: str) -> adapters.Adapter:
        """Return one adapter, with its route.

        >>> adapter = await serving.get_adapter("tenants/acme/adapters/support")
        >>> adapter.route.generation
        3
        """
        request = adapters.GetAdapterRequest(name=name)
        response = await self._connection.call(self.adapter_stub.GetAdapter, request, again=True)
        return response.adapter

    def list_versions(self, parent: str) -> AsyncIterator[adapters.Version]:
        """Yield an adapter's versions, newest first; pages are fetched as they are needed.

        >>> versions = serving.list_versions("tenants/acme/adapters/support")
        >>> [version.rank async for version in versions]
        [16, 16]
        """
        request = adapters.ListVersionsRequest(parent=parent)
        return self._connection.items(
            self.adapter_stub.ListVersions, request, lambda page: page.versions
        )

    async def get_version(self, name: str) -> adapters.Version:
        """Return one version: what it is, where it came from, how it did.

        >>> name = "tenants/acme/adapters/support/versions/20261122T100000-job-1"
        >>> version = await serving.get_version(name)
        >>> version.judgement.primary_metric
        'exact_match'
        """
        request = adapters.GetVersionRequest(name=name)
        response = await self._connection.call(self.adapter_stub.GetVersion, request, again=True)
        return response.version

    async def get_version_report(self, name: str, *, json: bool = False) -> bytes:
        """Return a version's report: the page for people in UTF-8, or the JSON for programs.

        >>> name = "tenants/acme/adapters/support/versions/20261122T100000-job-1"
        >>> await serving.get_version_report(name, json=True)
        b'{"best_step": 7}'
        """
        kind = adapters.GetVersionReportRequest
        request = kind(name=name, format=kind.FORMAT_JSON if json else kind.FORMAT_HTML)
        response = await self._connection.call(
            self.adapter_stub.GetVersionReport, request, again=True
        )
        return response.content

    async def promote(self, version: str) -> adapters.Route:
        """Route an adapter to one of its versions, named in full.

        >>> version = "tenants/acme/adapters/support/versions/20261122T100000-job-1"
        >>> route = await serving.promote(version)
        >>> route.version == version
        True
        """
        request = adapters.PromoteRequest(name=version)
        response = await self._connection.call(
            self.adapter_stub.Promote, request, timeout=_PROMOTION_TIMEOUT
        )
        return response.route

    async def rollback(self, adapter: str, to_version: str = "") -> adapters.Route:
        """Route an adapter back to `to_version`, or to the version that was routed before.

        >>> route = await serving.rollback("tenants/acme/adapters/support")
        >>> route.version.rpartition("/")[2]
        '20261121T100000-job-1'
        """
        request = adapters.RollbackRequest(name=adapter, to_version=to_version)
        response = await self._connection.call(
            self.adapter_stub.Rollback, request, timeout=_PROMOTION_TIMEOUT
        )
        return response.route

    async def set_route(
        self, adapter: str, versions: Mapping[str, int], *, expected_generation: int = 0
    ) -> adapters.Route:
        """Route an adapter to versions, named in full, each with its weight.

        With `expected_generation` only if the newest route has that generation.

        >>> adapter = "tenants/acme/adapters/support"
        >>> weights = {f"{adapter}/versions/new": 10, f"{adapter}/versions/old": 90}
        >>> route = await serving.set_route(adapter, weights)
        >>> [routed.weight for routed in route.versions]
        [10, 90]
        """
        request = adapters.SetRouteRequest(
            name=adapter,
            versions=[
                adapters.RoutedVersion(version=version, weight=weight)
                for version, weight in versions.items()
            ],
            expected_generation=expected_generation,
        )
        response = await self._connection.call(
            self.adapter_stub.SetRoute, request, timeout=_PROMOTION_TIMEOUT
        )
        return response.route

    async def warm_version(
        self, version: str, *, pin: bool | None = None
    ) -> adapters.ResidentVersion:
        """Load a version ahead of its traffic; `pin` says whether it keeps its slot without any.

        >>> version = "tenants/acme/adapters/support/versions/20261122T100000-job-1"
        >>> held = await serving.warm_version(version, pin=True)
        >>> held.pinned
        True
        """
        request = adapters.WarmVersionRequest(name=version, pin=pin)
        response = await self._connection.call(
            self.adapter_stub.WarmVersion, request, timeout=_PROMOTION_TIMEOUT
        )
        return response.resident

    async def delete_version(self, version: str) -> adapters.Version:
        """Delete a version that no route leads to.

        >>> version = "tenants/acme/adapters/support/versions/20261122T100000-job-1"
        >>> deleted = await serving.delete_version(version)
        >>> deleted.HasField("delete_time")
        True
        """
        request = adapters.DeleteVersionRequest(name=version)
        response = await self._connection.call(self.adapter_stub.DeleteVersion, request)
        return response.version

    async def import_adapter(self, adapter: str, source: Path | str) -> adapters.Version:
        """Make a PEFT adapter a version: the files of a folder here, or of a URI there.

        Raises OSError if a file cannot be read.

        >>> adapter = "tenants/acme/adapters/support"
        >>> version = await serving.import_adapter(adapter, "s3://bucket/adapter")
        >>> version.rank
        8
        """
        uri = source if isinstance(source, str) else ""
        header = adapters.ImportAdapterRequest.Import(adapter=adapter, uri=uri)
        with ExitStack() as stack:
            files = {}
            if isinstance(source, Path):
                files = {name: stack.enter_context((source / name).open("rb")) for name in _FILES}
            response = await self._connection.upload(
                lambda opened: AdapterServiceStub(opened).ImportAdapter,
                _import(header, files),
                timeout=_PROMOTION_TIMEOUT,
            )
            return response.version

    def list_residency(self, parent: str) -> AsyncIterator[adapters.ListResidencyResponse]:
        """Yield pages of what a replica holds of a tenant's versions; each names its replica.

        >>> [page.replica async for page in serving.list_residency("tenants/acme")]
        ['serving-0', 'serving-0']
        """
        request = adapters.ListResidencyRequest(parent=parent)
        return self._connection.pages(self.adapter_stub.ListResidency, request)

    async def server_info(self) -> serving.GetServerInfoResponse:
        """Return what this replica serves.

        >>> info = await serving.server_info()
        >>> info.base_model
        'demo'
        """
        request = serving.GetServerInfoRequest()
        return await self._connection.call(self.stub.GetServerInfo, request, again=True)


def _model(request: serving.GenerateRequest) -> str:
    return request.adapter or request.parent


def _import(
    header: adapters.ImportAdapterRequest.Import, files: Mapping[str, BinaryIO]
) -> Iterator[adapters.ImportAdapterRequest]:
    # The field's name is a word of Python's.
    yield adapters.ImportAdapterRequest(**{"import": header})  # type: ignore[arg-type]
    for path, file in files.items():
        while data := file.read(_CHUNK_BYTES):
            chunk = adapters.ImportAdapterRequest.FileChunk(path=path, data=data)
            yield adapters.ImportAdapterRequest(chunk=chunk)
