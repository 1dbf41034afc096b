"""Serving's client: see `tailorbird.client`."""

from __future__ import annotations

import uuid
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Self

from tailorbird.adapters.v1 import adapter_service_pb2 as adapters
from tailorbird.adapters.v1.adapter_service_pb2_grpc import AdapterServiceStub
from tailorbird.connection import Connection
from tailorbird.serving.v1 import inference_service_pb2 as serving
from tailorbird.serving.v1.inference_service_pb2_grpc import InferenceServiceStub

_PROMOTION_TIMEOUT = 600.0
_CHUNK_BYTES = 2**20
_FILES = ("adapter_config.json", "adapter_model.safetensors")


class ServingClient:
    """Serving: generations, and the adapters that answer them. Arguments as for TrainerClient.

    A generation is never sent twice: the first one may have been answered, or have been the cause
    of the failure.
    """

    def __init__(
        self,
        address: str,
        token: str | None = None,
        *,
        root_certificates: bytes | None = None,
        plaintext: bool = False,
    ) -> None:
        self._connection = Connection(address, token, root_certificates, plaintext)
        self._inference = InferenceServiceStub(self._connection.channel)
        self._adapters = AdapterServiceStub(self._connection.channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel; calls in flight end as cancelled."""
        self._connection.channel.close()

    def generate(
        self, request: serving.GenerateRequest, *, timeout: float | None = None
    ) -> serving.GenerateResponse:
        """Generate, and return when done."""
        return self._connection.call(
            self._inference.Generate, request, timeout=timeout, model=_model(request)
        )

    def stream_generate(
        self, request: serving.GenerateRequest, *, timeout: float | None = None
    ) -> Generator[serving.StreamGenerateResponse, None, None]:
        """Yield an answer as it comes; the last piece has a finish_reason.

        Closing it ends the generation.
        """
        return self._connection.stream(
            self._inference.StreamGenerate,
            serving.StreamGenerateRequest(request=request),
            timeout=timeout,
            model=_model(request),
        )

    def record_feedback(
        self, request: serving.RecordFeedbackRequest, *, timeout: float | None = 60.0
    ) -> serving.RecordFeedbackResponse:
        """Keep an answer for a later training; see `feedback_request`.

        Without a request id the request gets one, which it keeps: sent again, it is one record.
        """
        request.request_id = request.request_id or uuid.uuid4().hex
        model = request.version.partition("/versions/")[0]
        return self._connection.call(
            self._inference.RecordFeedback, request, timeout=timeout, model=model
        )

    def list_adapters(self, parent: str) -> Iterator[adapters.Adapter]:
        """Yield a tenant's adapters by name; pages are fetched as they are needed."""
        request = adapters.ListAdaptersRequest(parent=parent)
        for page in self._connection.pages(self._adapters.ListAdapters, request):
            yield from page.adapters

    def get_adapter(self, name: str) -> adapters.Adapter:
        """Return one adapter, with its route."""
        request = adapters.GetAdapterRequest(name=name)
        return self._connection.call(self._adapters.GetAdapter, request).adapter

    def list_versions(self, parent: str) -> Iterator[adapters.Version]:
        """Yield an adapter's versions, newest first; pages are fetched as they are needed."""
        request = adapters.ListVersionsRequest(parent=parent)
        for page in self._connection.pages(self._adapters.ListVersions, request):
            yield from page.versions

    def get_version(self, name: str) -> adapters.Version:
        """Return one version: what it is, where it came from, how it did."""
        request = adapters.GetVersionRequest(name=name)
        return self._connection.call(self._adapters.GetVersion, request).version

    def get_version_report(self, name: str, *, json: bool = False) -> bytes:
        """Return a version's report: the page for people in UTF-8, or the JSON for programs."""
        kind = adapters.GetVersionReportRequest
        request = kind(name=name, format=kind.FORMAT_JSON if json else kind.FORMAT_HTML)
        return self._connection.call(self._adapters.GetVersionReport, request).content

    def promote(self, version: str) -> adapters.Route:
        """Route an adapter to one of its versions, named in full."""
        request = adapters.PromoteRequest(name=version)
        return self._connection.call(
            self._adapters.Promote, request, timeout=_PROMOTION_TIMEOUT
        ).route

    def rollback(self, adapter: str, to_version: str = "") -> adapters.Route:
        """Route an adapter back to `to_version`, or to the version that was routed before."""
        request = adapters.RollbackRequest(name=adapter, to_version=to_version)
        return self._connection.call(
            self._adapters.Rollback, request, timeout=_PROMOTION_TIMEOUT
        ).route

    def set_route(
        self, adapter: str, versions: Mapping[str, int], *, expected_generation: int = 0
    ) -> adapters.Route:
        """Route an adapter to versions, named in full, each with its weight.

        With `expected_generation` only if the newest route has that generation.
        """
        request = adapters.SetRouteRequest(
            name=adapter,
            versions=[
                adapters.RoutedVersion(version=version, weight=weight)
                for version, weight in versions.items()
            ],
            expected_generation=expected_generation,
        )
        return self._connection.call(
            self._adapters.SetRoute, request, timeout=_PROMOTION_TIMEOUT
        ).route

    def warm_version(self, version: str, *, pin: bool | None = None) -> adapters.ResidentVersion:
        """Load a version ahead of its traffic; `pin` says whether it keeps its slot without any."""
        request = adapters.WarmVersionRequest(name=version, pin=pin)
        return self._connection.call(
            self._adapters.WarmVersion, request, timeout=_PROMOTION_TIMEOUT
        ).resident

    def delete_version(self, version: str) -> adapters.Version:
        """Delete a version that no route leads to."""
        request = adapters.DeleteVersionRequest(name=version)
        return self._connection.call(self._adapters.DeleteVersion, request).version

    def import_adapter(self, adapter: str, source: Path | str) -> adapters.Version:
        """Make a PEFT adapter a version: the files of a folder here, or of a URI there.

        Raises OSError if a file cannot be read.
        """
        uri = source if isinstance(source, str) else ""
        header = adapters.ImportAdapterRequest.Import(adapter=adapter, uri=uri)
        with ExitStack() as stack:
            files = {}
            if isinstance(source, Path):
                files = {name: stack.enter_context((source / name).open("rb")) for name in _FILES}
            return self._connection.upload(
                self._adapters.ImportAdapter, _import(header, files), timeout=_PROMOTION_TIMEOUT
            ).version

    def list_residency(self, parent: str) -> Iterator[adapters.ListResidencyResponse]:
        """Yield pages of what a replica holds of a tenant's versions; each names its replica."""
        request = adapters.ListResidencyRequest(parent=parent)
        yield from self._connection.pages(self._adapters.ListResidency, request)

    def server_info(self) -> serving.GetServerInfoResponse:
        """Return what this replica serves."""
        return self._connection.call(self._inference.GetServerInfo, serving.GetServerInfoRequest())


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
