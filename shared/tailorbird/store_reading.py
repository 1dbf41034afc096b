"""An object as it is read: where the store breaks off, it is asked for the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import obstore
from obstore.store import ObjectStore as Backend

from tailorbird.errors import StoreUnavailable
from tailorbird.store_patience import Patience

if TYPE_CHECKING:
    from obstore import BytesStream

_PIECE_BYTES = 2**20


class ObjectReading:
    """The pieces of one object, in order. It raises what the driver does."""

    def __init__(self, backend: Backend, key: str, patience: Patience) -> None:
        self._backend = backend
        self._key = key
        self._patience = patience
        self._stream: BytesStream | None = None
        self._at = 0
        self._size = -1
        self._tag: str | None = None

    async def next(self) -> memoryview:
        """Return the next piece, of about 1 MiB; one of no bytes after the last.

        The end is never told before as many bytes have come as the store said there are.
        """
        if self._at == self._size:
            return memoryview(b"")
        return await self._patience.call(self._next)

    async def _next(self) -> memoryview:
        # Only a stream that brought a piece is read on.
        stream, self._stream = self._stream, None
        async with self._patience.limit():
            if stream is None:
                stream = await self._opened()
            if self._at == self._size:
                return memoryview(b"")
            piece = memoryview(await anext(stream, b""))
        if not 0 < len(piece) <= self._size - self._at:
            raise ConnectionResetError(f"it ended at {self._at} of {self._size} bytes")
        self._stream = stream
        self._at += len(piece)
        return piece

    async def _opened(self) -> BytesStream:
        if not self._at:
            found = await obstore.get_async(self._backend, self._key)
            self._size, self._tag = found.meta["size"], found.meta["e_tag"]
        elif self._tag:
            # Never the rest of another object that has taken its place.
            found = await obstore.get_async(
                self._backend,
                self._key,
                options={"range": {"offset": self._at}, "if_match": self._tag},
            )
        else:
            raise StoreUnavailable(
                f"object {self._key} broke off at byte {self._at}, and has no tag to go on by",
                key=self._key,
            )
        return found.stream(min_chunk_size=_PIECE_BYTES)
