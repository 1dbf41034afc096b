"""/v1/files: datasets, as files for fine-tuning."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tailorbird.errors import InvalidArgument
from tailorbird.http.body import body_chunks
from tailorbird.http.fields import Fields, shown
from tailorbird.names import DatasetName
from trainer_svc.datasets.dataset import Dataset
from trainer_svc.datasets.store import DatasetStore
from trainer_svc.http.form import FileForm
from trainer_svc.http.ids import caller_tenant, dataset_in_path, dataset_of, file_id
from trainer_svc.http.pages import listed, read_page
from trainer_svc.http.refusals import told_as
from trainer_svc.jobs.service import TuningService
from trainer_svc.metrics import TrainerMetrics

_PURPOSE = "fine-tune"
_USUAL_PAGE = 100
_MAX_REST_BYTES = 2**16
"""What a form has beside its file, at most."""


class Files:
    """Keeps files, each of which is a dataset; what gRPC's servicer calls is called here."""

    def __init__(
        self,
        datasets: DatasetStore,
        service: TuningService,
        metrics: TrainerMetrics,
        max_bytes: int,
    ) -> None:
        self._datasets = datasets
        self._service = service
        self._metrics = metrics
        self._max_bytes = max_bytes

    def routes(self) -> list[Route]:
        """Return what answers under /v1/files."""
        return [
            Route("/v1/files", self.create, methods=["POST"]),
            Route("/v1/files", self.list, methods=["GET"]),
            Route("/v1/files/{file_id}", self.retrieve, methods=["GET"]),
            Route("/v1/files/{file_id}", self.delete, methods=["DELETE"]),
            Route("/v1/files/{file_id}/content", self.content, methods=["GET"]),
        ]

    async def create(self, request: Request) -> Response:
        """Store the file that a form has; nothing is stored if this raises."""
        tenant = caller_tenant(request)
        body = body_chunks(request, self._max_bytes + _MAX_REST_BYTES)
        form = FileForm(request.headers.get("content-type", ""), body, _check_field)
        filename = await form.begin()
        async with aclosing(_whole(form)) as chunks:
            with told_as({"chunk": "file"}):
                dataset = await self._datasets.receive_file(tenant, filename, chunks)
        self._metrics.datasets.inc()
        self._metrics.dataset_bytes.inc(dataset.size_bytes)
        return JSONResponse(file_json(dataset))

    async def list(self, request: Request) -> Response:
        """Return files in the order of their ids."""
        tenant = caller_tenant(request)
        query = Fields(request.query_params)
        page = read_page(query, _USUAL_PAGE)
        other = query.text("purpose") not in {None, _PURPOSE}
        query.only("order", why="files are listed by their ids; leave it out")
        query.end()
        position = dataset_of(tenant, page.after, "after").dataset if page.after else ""
        found: list[Dataset] = []
        while not other:
            found, position = await self._datasets.page(tenant, page.limit, position)
            # Of those looked at, none may have been readable.
            if found or not position:
                break
        return listed([file_json(each) for each in found], more=bool(position) and not other)

    async def retrieve(self, request: Request) -> Response:
        """Return one file's record."""
        return JSONResponse(file_json(await self._datasets.get(dataset_in_path(request))))

    async def delete(self, request: Request) -> Response:
        """Delete a file that no job needs."""
        name = dataset_in_path(request)
        await self._service.delete_dataset(name)
        return JSONResponse({"id": file_id(str(name)), "object": "file", "deleted": True})

    async def content(self, request: Request) -> Response:
        """Return a file's bytes as they are stored: personal data may have been replaced."""
        name = dataset_in_path(request)
        dataset = await self._datasets.get(name)
        pieces = self._datasets.store.read(dataset.data_key)
        # What fails before the first of them is answered as any other error.
        first = await anext(pieces, memoryview(b""))
        headers = {
            "content-length": str(dataset.size_bytes),
            "content-disposition": f'attachment; filename="{name.dataset}.jsonl"',
            "x-content-type-options": "nosniff",
        }
        return StreamingResponse(
            _all(first, pieces), media_type="application/octet-stream", headers=headers
        )


def file_json(dataset: Dataset) -> dict[str, Any]:
    """Return OpenAI's object for a file."""
    id_ = file_id(dataset.name)
    return {
        "id": id_,
        "object": "file",
        "bytes": dataset.size_bytes,
        "created_at": int(dataset.create_time.timestamp()),
        "expires_at": None,
        "filename": dataset.filename or f"{DatasetName.parse(dataset.name).dataset}.jsonl",
        "purpose": _PURPOSE,
        "status": "processed",
        "status_details": None,
    }


async def _whole(form: FileForm) -> AsyncGenerator[bytes]:
    """Yield the file, and hold the rest of the form to its rules before the file's end is told."""
    async for piece in form.content():
        yield piece
    if "purpose" not in form.seen:
        raise InvalidArgument("purpose", "it is needed, and not given")


async def _all(first: memoryview, pieces: AsyncGenerator[memoryview]) -> AsyncIterator[memoryview]:
    async with aclosing(pieces):
        yield first
        async for piece in pieces:
            yield piece


def _check_field(name: str, value: str | None) -> None:
    if name.partition("[")[0] == "expires_after":
        raise InvalidArgument(
            "expires_after", "files stay until they are deleted; leave it out", reason="UNSUPPORTED"
        )
    if name != "purpose":
        fields = Fields({name: True})
        fields.ignore("purpose", "file")
        fields.end()
    if value not in {None, _PURPOSE}:
        raise InvalidArgument(
            "purpose",
            f"{shown(value)} is not {_PURPOSE!r}, which is what files are for here",
            reason="UNSUPPORTED",
        )
