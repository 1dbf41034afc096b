"""A file that goes up in parts: whole and seen, or not at all."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import BinaryIO

import obstore
from obstore.store import ObjectStore as Backend

PART_BYTES = 8 * 2**20
_PARTS_AT_ONCE = 4
_ABORT_SECONDS = 5.0


class _Stopped(Exception):
    """The upload is to be given up."""


async def upload_in_parts(backend: Backend, key: str, path: Path, size: int) -> None:
    """Put a file of `size` bytes in parts of PART_BYTES, four at a time.

    Raises what the driver does, and OSError if the file turns out to have more or less.

    One that fails is aborted: obstore deletes the parts that were stored. So is one that is
    cancelled, where the store lets it within five seconds.
    """
    stop = Event()
    with path.open("rb") as file:
        sending = asyncio.ensure_future(
            obstore.put_async(
                backend,
                key,
                _parts(file, size, stop),
                use_multipart=True,
                chunk_size=PART_BYTES,
                max_concurrency=_PARTS_AT_ONCE,
            )
        )
        try:
            await asyncio.shield(sending)
        finally:
            # Cancelled at once it would leave its parts where nobody sees and everybody pays.
            stop.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(_ABORT_SECONDS):
                    await asyncio.gather(sending, return_exceptions=True)


def _parts(file: BinaryIO, size: int, stop: Event) -> Iterator[bytes]:
    left = size
    while part := file.read(PART_BYTES):
        if stop.is_set():
            raise _Stopped
        left -= len(part)
        yield part
    # Before the end is told: what is not whole is never put together.
    if left:
        raise OSError(errno.EIO, "the file was changed while it went up")
