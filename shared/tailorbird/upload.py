"""What a dataset is uploaded from, as the chunks that are sent."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeAlias, cast

from tailorbird.errors import InvalidArgument

Records: TypeAlias = Iterable[Mapping[str, object] | str | bytes]
Data: TypeAlias = Path | str | IO[bytes] | IO[str] | Records
"""A file's path; a file that is open, from where it stands; or records, each a dict or a line."""

CHUNK_BYTES = 2**20


@contextmanager
def chunks_of(data: Data) -> Iterator[tuple[int | None, Iterator[bytes]]]:
    r"""Give the size of `data` in bytes, None if only its end will tell, and its chunks.

    Raises OSError if a file cannot be opened. Drawing the chunks of records raises InvalidArgument
    for what is no record.

    >>> with chunks_of([{"prompt": "1 + 1 =", "completion": " 2"}]) as (size, chunks):
    ...     print(size, list(chunks))
    None [b'{"prompt": "1 + 1 =", "completion": " 2"}\n']
    """
    if isinstance(data, Path | str):
        with Path(data).open("rb") as file:
            found = os.fstat(file.fileno())
            # Of a pipe it says 0.
            yield found.st_size if stat.S_ISREG(found.st_mode) else None, _read(file)
    elif hasattr(data, "read"):
        yield None, _read(cast("IO[bytes] | IO[str]", data))
    else:
        yield None, _joined(_line(number, record) for number, record in enumerate(data, start=1))


def _read(file: IO[bytes] | IO[str]) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        # A character is up to four bytes, and a message has room for three chunks.
        yield from _joined([chunk.encode()]) if isinstance(chunk, str) else [chunk]


def _line(number: int, record: Mapping[str, object] | str | bytes) -> bytes:
    if isinstance(record, Mapping):
        try:
            return json.dumps(dict(record), ensure_ascii=False).encode() + b"\n"
        except (TypeError, ValueError) as error:
            raise InvalidArgument("data", f"record {number} is not JSON: {error}") from error
    if isinstance(record, str):
        try:
            record = record.encode()
        except UnicodeEncodeError as error:
            raise InvalidArgument("data", f"record {number} is not UTF-8: {error}") from error
    if not isinstance(record, bytes):
        raise InvalidArgument(
            "data", f"record {number} is of type {type(record).__name__}: a dict or a line is taken"
        )
    return record.rstrip(b"\r\n") + b"\n"


def _joined(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in chunks of one size, the last of which may be shorter."""
    waiting = bytearray()
    for piece in pieces:
        waiting += piece
        while len(waiting) >= CHUNK_BYTES:
            yield bytes(waiting[:CHUNK_BYTES])
            del waiting[:CHUNK_BYTES]
    if waiting:
        yield bytes(waiting)
