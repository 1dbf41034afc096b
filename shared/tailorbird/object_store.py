"""The object store: the only thing the two services share.

`ObjectStore` is what the rest of Tailorbird asks for; `open_store` gives obstore's implementation
for file://, s3://, gs:// and az:// URLs. Keys are relative, separated by "/".
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import LocalStore, from_url
from obstore.store import ObjectStore as Backend

from tailorbird.errors import Conflict, DataCorrupt, InvalidArgument, NotFound, StoreUnavailable
from tailorbird.local_disk import is_disk_full

_CHUNK_BYTES = 8 * 2**20
_PIECE_BYTES = 2**20
_PARTS_AT_ONCE = 4
_OS_ERROR = re.compile(r"\(os error (\d{1,4})\)")
_NO_ROOM = tuple(f"(os error {number})" for number in (errno.ENOSPC, errno.EDQUOT))


class ObjectExists(Conflict):
    """A create-only put found an object under its key."""

    default_reason = "OBJECT_EXISTS"


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """Key, size in bytes and time of writing, by the store's clock, of a stored object."""

    key: str
    size: int
    modified: datetime


class ObjectStore(Protocol):
    """Objects by key. Every method raises StoreUnavailable when the store does not answer.

    Its reason is DISK_FULL where a disk, ours or that of a store in a folder, has no room left.
    """

    async def get(self, key: str, max_bytes: int | None = None) -> bytes:
        """Return the whole object; NotFound if there is none.

        DataCorrupt (OBJECT_TOO_LARGE) if it has more than `max_bytes`, before it is read.
        """

    def read(self, key: str) -> AsyncGenerator[memoryview]:
        """Yield the object's bytes in order, in pieces of about 1 MiB; NotFound if none."""

    async def download(self, key: str, path: Path) -> int:
        """Write the object to `path` in bounded memory and return its size; NotFound if none."""

    async def create(self, key: str, data: bytes) -> None:
        """Put an object; ObjectExists if there is one. Atomic: never seen in part."""

    async def put(self, key: str, data: bytes) -> None:
        """Put an object, replacing what is there. Atomic."""

    async def upload(self, key: str, path: Path) -> None:
        """Put a file in bounded memory, replacing what is there. Atomic."""

    async def delete(self, key: str) -> None:
        """Delete an object; nothing happens if there is none."""

    def objects(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Yield the objects under the folder `prefix`, in no certain order."""

    async def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders directly in the folder `prefix`, sorted."""


@contextmanager
def _mapped(key: str) -> Iterator[None]:
    try:
        yield
    except (NotFoundError, FileNotFoundError) as error:
        raise NotFound(f"object {key}", reason="OBJECT_NOT_FOUND") from error
    except (AlreadyExistsError, FileExistsError) as error:
        raise ObjectExists(f"object {key} exists", key=key) from error
    except (BaseError, OSError) as error:
        raise StoreUnavailable(
            f"the object store failed at {key}: {_cause(error)}",
            reason="DISK_FULL" if _no_room(error) else None,
            key=key,
        ) from error


def _cause(error: BaseError | OSError) -> str:
    """Say what failed in the system's words; a driver's own text may have paths and addresses."""
    number = error.errno if isinstance(error, OSError) else None
    if found := _OS_ERROR.search(str(error)):
        number = int(found[1])
    return type(error).__name__ if number is None else os.strerror(number)


def _no_room(error: BaseError | OSError) -> bool:
    if isinstance(error, OSError):
        return is_disk_full(error)
    return any(told in str(error) for told in _NO_ROOM)


class ObstoreStore:
    """ObjectStore on obstore, which retries and signs."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def get(self, key: str, max_bytes: int | None = None) -> bytes:
        """See ObjectStore."""
        with _mapped(key):
            result = await obstore.get_async(self._backend, key)
            size = result.meta["size"]
            if max_bytes is not None and size > max_bytes:
                raise DataCorrupt(
                    f"object {key} has {size} bytes; at most {max_bytes} are read",
                    reason="OBJECT_TOO_LARGE",
                    key=key,
                )
            return bytes(await result.bytes_async())

    async def read(self, key: str) -> AsyncGenerator[memoryview]:
        """See ObjectStore."""
        with _mapped(key):
            result = await obstore.get_async(self._backend, key)
            async for piece in result.stream(min_chunk_size=_PIECE_BYTES):
                yield memoryview(piece)

    async def download(self, key: str, path: Path) -> int:
        """See ObjectStore."""
        size = 0
        with _mapped(key):
            result = await obstore.get_async(self._backend, key)
            with path.open("wb") as file:
                async for chunk in result.stream(min_chunk_size=_CHUNK_BYTES):
                    size += file.write(chunk)
        return size

    async def create(self, key: str, data: bytes) -> None:
        """See ObjectStore."""
        with _mapped(key):
            await obstore.put_async(self._backend, key, data, mode="create", use_multipart=False)

    async def put(self, key: str, data: bytes) -> None:
        """See ObjectStore."""
        with _mapped(key):
            await obstore.put_async(self._backend, key, data, use_multipart=False)

    async def upload(self, key: str, path: Path) -> None:
        """See ObjectStore."""
        with _mapped(key):
            await obstore.put_async(
                self._backend, key, path, chunk_size=_CHUNK_BYTES, max_concurrency=_PARTS_AT_ONCE
            )

    async def delete(self, key: str) -> None:
        """See ObjectStore."""
        try:
            with _mapped(key):
                await obstore.delete_async(self._backend, key)
        except NotFound:
            return

    async def objects(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """See ObjectStore."""
        with _mapped(prefix):
            async for batch in obstore.list(self._backend, prefix=prefix.rstrip("/") + "/"):
                for meta in batch:
                    yield ObjectInfo(meta["path"], meta["size"], meta["last_modified"])

    async def folders(self, prefix: str) -> list[str]:
        """See ObjectStore."""
        with _mapped(prefix):
            found = await obstore.list_with_delimiter_async(
                self._backend, prefix=prefix.rstrip("/") + "/"
            )
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found["common_prefixes"])


def is_store_url(url: str) -> bool:
    """Return whether a store of a kind that open_store knows answers to `url`."""
    return urlsplit(url).scheme in {"file", "s3", "gs", "az"}


def open_store(url: str, retry_seconds: float | None = None) -> ObstoreStore:
    """Open the store at `url`; a file:// folder is made if it is missing.

    Requests are tried again for `retry_seconds`, at most three times; None: for obstore's three
    minutes. Raises InvalidArgument for a URL no store answers to. Credentials come from the
    environment, as obstore documents them.
    """
    if not is_store_url(url):
        raise InvalidArgument("object_store", f"{url!r} is not a file, s3, gs or az URL")
    try:
        if urlsplit(url).scheme == "file":
            path = Path(unquote(urlsplit(url).path))
            return ObstoreStore(LocalStore(path, mkdir=True, automatic_cleanup=True))
        if retry_seconds is None:
            return ObstoreStore(from_url(url))
        patience = timedelta(seconds=retry_seconds)
        # No client_options: they would take the place of those in the environment, AWS_ALLOW_HTTP
        # among them.
        return ObstoreStore(
            from_url(url, retry_config={"max_retries": 3, "retry_timeout": patience})
        )
    except (BaseError, OSError, ValueError) as error:
        raise InvalidArgument("object_store", f"cannot open {url!r}: {error}") from error


async def delete_folder(store: ObjectStore, prefix: str, *, first: str = "") -> None:
    """Delete every object under `prefix`; the one named `first` goes before the others.

    A reader takes a folder for complete while its manifest is there: name it as `first`.
    """
    if first:
        await store.delete(f"{prefix.rstrip('/')}/{first}")
    for key in [info.key async for info in store.objects(prefix)]:
        await store.delete(key)
