"""A file of a form, sent on to the trainer while the browser sends it: nothing is kept here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from tailorbird.console import words
from tailorbird.console.failure import failure_of
from tailorbird.console.multipart import FileForm
from tailorbird.console.visit import Visit, body_of, stalled, told, unexpected
from tailorbird.errors import InvalidArgument, ResourceExhausted, TailorbirdError
from tailorbird.names import check_id
from tailorbird.tuning.v1 import dataset_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as tuning

MODES = {
    "": dataset_pb2.PERSONAL_DATA_MODE_UNSPECIFIED,
    "scan": dataset_pb2.PERSONAL_DATA_MODE_SCAN,
    "substitute": dataset_pb2.PERSONAL_DATA_MODE_SUBSTITUTE,
    "redact": dataset_pb2.PERSONAL_DATA_MODE_REDACT,
    "refuse": dataset_pb2.PERSONAL_DATA_MODE_REFUSE,
}
"""What may be asked to be done about personal data."""
_FILE = "file"
_WAITING = 4
"""Chunks that wait for the trainer."""
_MOST_UPLOADS = 32


class Uploads:
    """The uploads under way. Each has a thread for as long as its browser sends."""

    def __init__(self, most: int = _MOST_UPLOADS) -> None:
        self._most = most
        self._running = 0
        # Not the event loop's own threads: a few slow browsers would take all of those.
        self._threads = ThreadPoolExecutor(most, thread_name_prefix="upload")

    async def run(self, send: Callable[[], dataset_pb2.Dataset]) -> dataset_pb2.Dataset:
        """Return what `send` does, on a thread; ResourceExhausted if too many run."""
        if self._running >= self._most:
            raise ResourceExhausted(
                f"{self._most} uploads are under way at this console: wait for one to end",
                reason="TOO_MANY_UPLOADS",
            )
        self._running += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, send)
        finally:
            self._running -= 1


async def upload(request: Request) -> Response:
    """Take a dataset: its fields first, then its file, as the form has them."""
    visit = Visit(request, [])
    try:
        form = FileForm(request.headers.get("content-type", ""), _FILE)
        dataset = await _sent(visit, form, form.chunks(body_of(request)))
        return visit.go("datasets", words.last_part(dataset.name))
    except ClientDisconnect:
        return Response(status_code=400)
    except TimeoutError:
        return await run_in_threadpool(told, visit, stalled())
    except TailorbirdError as error:
        return await run_in_threadpool(told, visit, failure_of(error))
    except Exception:
        return await run_in_threadpool(told, visit, unexpected())
    finally:
        visit.backend.close()


async def _sent(visit: Visit, form: FileForm, chunks: AsyncIterator[bytes]) -> dataset_pb2.Dataset:
    """Send a form's file on; of one that breaks off nothing is stored."""
    chunk: bytes | None = await anext(chunks, None)
    if chunk is None:
        raise InvalidArgument(_FILE, "choose a file that is not empty")
    header = _header(visit.parent, form.fields)
    loop, room = asyncio.get_running_loop(), asyncio.Semaphore(_WAITING)
    sent: SimpleQueue[bytes | None] = SimpleQueue()

    def requests() -> Iterator[tuning.UploadDatasetRequest]:
        yield tuning.UploadDatasetRequest(header=header)
        while (content := sent.get()) is not None:
            loop.call_soon_threadsafe(room.release)
            yield tuning.UploadDatasetRequest(chunk=content)

    uploads: Uploads = visit.request.app.state.uploads
    call = asyncio.create_task(uploads.run(lambda: visit.backend.upload(requests())))
    try:
        while chunk is not None and await _has_room(room, call):
            sent.put(chunk)
            chunk = await anext(chunks, None)
    except BaseException:
        # The call ends first: the end of the chunks is not the end of the file.
        visit.backend.close()
        sent.put(None)
        with suppress(TailorbirdError):
            await call
        raise
    sent.put(None)
    return await call


async def _has_room(room: asyncio.Semaphore, call: asyncio.Task[dataset_pb2.Dataset]) -> bool:
    """Wait until one more chunk may wait; False if the call has ended before."""
    waits = asyncio.create_task(room.acquire())
    await asyncio.wait([waits, call], return_when=asyncio.FIRST_COMPLETED)
    waits.cancel()
    return not call.done()


def _header(parent: str, fields: dict[str, str]) -> tuning.UploadDatasetHeader:
    mode = fields.get("personal_data", "")
    if mode not in MODES:
        raise InvalidArgument("personal_data", f"{mode[:40]!r} is none of {', '.join(MODES)}")
    return tuning.UploadDatasetHeader(
        parent=parent,
        dataset_id=check_id("dataset_id", fields.get("dataset_id", "").strip()),
        personal_data=MODES[mode],
    )
