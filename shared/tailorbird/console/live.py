"""Streams of the services, read on threads of their own, for pages that go on while one looks.

A stream holds its thread for as long as the page is open, so that these threads are not those that
answer requests, and there are only so many of them.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TypeVar

from starlette.responses import StreamingResponse

from tailorbird.errors import ResourceExhausted

Item = TypeVar("Item")

_MOST_STREAMS = 200
_FIRST_SECONDS = 10.0
"""How long a page waits for a stream's first item."""
_QUIET_SECONDS = 0.25
"""After so long without an item a page has all of the past."""
_MOST_SECONDS = 10.0
_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class _Failed:
    """What a stream has ended with."""

    error: Exception


class Streams:
    """The streams that are open now, in this process."""

    def __init__(self, most: int = _MOST_STREAMS) -> None:
        self._free = threading.BoundedSemaphore(most)
        self._most = most

    async def read(self, stream: Callable[[], Generator[Item, None, None]]) -> AsyncIterator[Item]:
        """Yield a stream's items, which is opened and read on a thread; what it raises is raised.

        Whoever stops to read closes the call that the stream stands for. ResourceExhausted where
        too many are open.
        """
        if not self._free.acquire(blocking=False):
            raise ResourceExhausted(
                f"{self._most} live pages are open at this console: close some, or read without "
                "JavaScript",
                reason="TOO_MANY_STREAMS",
            )
        loop = asyncio.get_running_loop()
        items: asyncio.Queue[Item | _Failed | None] = asyncio.Queue()

        def put(item: Item | _Failed | None) -> None:
            # A loop that is closed has nobody who reads: the console stops.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(items.put_nowait, item)

        def run() -> None:
            last: _Failed | None = None
            try:
                for item in stream():
                    put(item)
            except Exception as error:
                # Whatever it is: an end without an error says that all has come.
                last = _Failed(error)
            finally:
                self._free.release()
                put(last)

        try:
            threading.Thread(target=run, name="stream", daemon=True).start()
        except RuntimeError:
            # The system has no more threads now: the place is nobody's.
            self._free.release()
            raise
        while (item := await items.get()) is not None:
            if isinstance(item, _Failed):
                raise item.error
            yield item


def past(stream: Iterator[Item], is_new: Callable[[Item], bool]) -> Iterator[Item]:
    """Yield what a stream has now: until it ends, is quiet, or tells what `is_new`.

    What it raises before its end is raised. The caller closes the call that it stands for.
    """
    items: SimpleQueue[Item | Exception | None] = SimpleQueue()

    def run() -> None:
        try:
            for item in stream:
                items.put(item)
            items.put(None)
        except Exception as error:
            items.put(error)

    threading.Thread(target=run, name="past", daemon=True).start()
    end, patience = time.monotonic() + _MOST_SECONDS, _FIRST_SECONDS
    while time.monotonic() < end:
        try:
            item = items.get(timeout=patience)
        except Empty:
            return
        if item is None:
            return
        if isinstance(item, Exception):
            raise item
        yield item
        if is_new(item):
            return
        patience = _QUIET_SECONDS


def live_response(chunks: AsyncIterator[str], media_type: str) -> StreamingResponse:
    """Return a body that comes as it is made; no proxy keeps a part of it back."""
    headers = {"X-Accel-Buffering": "no"}
    return StreamingResponse(chunks, media_type=media_type, headers=headers)


def sse(event: str, data: str) -> str:
    """Return one server-sent event, whose data may have several lines.

    A line ends where browsers take it to (HTML, 9.2.6): what users wrote begins no other event.
    """
    lines = "".join(f"data: {line}\n" for line in _LINE_END.split(data))
    return f"event: {event}\n{lines}\n"
