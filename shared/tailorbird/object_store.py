"""The object store: the only thing the two services share.

`ObjectStore` is what the rest of Tailorbird asks for; `open_store` gives obstore's implementation
for file://, s3://, gs:// and az:// URLs. Keys are relative, separated by "/".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import LocalStore, S3Store, from_url
from obstore.store import ObjectStore as Backend

from tailorbird.errors import DataCorrupt, InvalidArgument, NotFound
from tailorbird.store_errors import ObjectExists, on_disk, reading, writing
from tailorbird.store_patience import RETRY_SECONDS, STALL_SECONDS, Patience
from tailorbird.store_reading import ObjectReading
from tailorbird.store_upload import PART_BYTES, upload_in_parts

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import BackoffConfig, RetryConfig, S3Config

    Batch = Sequence[ObjectMeta]

__all__ = [
    "ObjectExists",
    "ObjectInfo",
    "ObjectStore",
    "ObstoreStore",
    "Patience",
    "delete_folder",
    "is_store_url",
    "open_store",
]

_MAX_RETRIES = 25
_PAUSES: BackoffConfig = {"base": 4, "max_backoff": timedelta(seconds=5)}
"""By chance from 0.1 s to four times the one before: with obstore's own base they hardly grow."""
_NO_LIMIT_SECONDS = 24 * 3600


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """Key, size in bytes and time of writing, by the store's clock, of a stored object."""

    key: str
    size: int
    modified: datetime


class ObjectStore(Protocol):
    """Objects by key. Every method raises StoreUnavailable when the store does not answer in time.

    Until then it is asked again, and what came in part is no answer. The reason is DISK_FULL where
    a disk, ours or the store's, has no room left.
    """

    async def get(self, key: str, max_bytes: int | None = None) -> bytes:
        """Return the whole object; NotFound if there is none.

        DataCorrupt (OBJECT_TOO_LARGE) if it has more than `max_bytes`, before it is read.
        """

    def read(self, key: str) -> AsyncGenerator[memoryview]:
        """Yield the object's bytes in order, in pieces of about 1 MiB; NotFound if none."""

    async def download(self, key: str, path: Path) -> int:
        """Write the object to `path` in bounded memory and return its size; NotFound if none.

        There is no file at `path` before it is whole.
        """

    async def create(self, key: str, data: bytes) -> None:
        """Put an object; ObjectExists if there is one. Atomic: never seen in part.

        The one there may be ours: of a try whose reply was lost, in this call or an earlier one.
        """

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


class ObstoreStore:
    """ObjectStore on obstore, which signs.

    `backend` tries once, and is asked again from here. `patient`, by default the same, asks again
    itself: for the parts of an upload and the pages of a listing, which are not seen from here.
    """

    def __init__(
        self,
        backend: Backend,
        patient: Backend | None = None,
        patience: Patience = Patience(),  # noqa: B008 - it is frozen
    ) -> None:
        self._backend = backend
        self._patient = patient or backend
        self._patience = patience

    async def get(self, key: str, max_bytes: int | None = None) -> bytes:
        """See ObjectStore."""
        with reading(key):
            return await self._patience.call(lambda: self._get(key, max_bytes))

    async def read(self, key: str) -> AsyncGenerator[memoryview]:
        """See ObjectStore."""
        with reading(key):
            pieces = ObjectReading(self._backend, key, self._patience)
            while piece := await pieces.next():
                yield piece

    async def download(self, key: str, path: Path) -> int:
        """See ObjectStore."""
        size = 0
        part = path.with_name(f"{path.name}.part")
        try:
            with on_disk(key):
                with part.open("wb") as file:
                    async with aclosing(self.read(key)) as pieces:
                        async for piece in pieces:
                            size += file.write(piece)
                part.replace(path)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise
        return size

    async def create(self, key: str, data: bytes) -> None:
        """See ObjectStore."""
        with writing(key):
            await self._patience.call(lambda: self._create(key, data))

    async def put(self, key: str, data: bytes) -> None:
        """See ObjectStore."""
        with writing(key):
            await self._patience.call(lambda: self._put(key, data))

    async def upload(self, key: str, path: Path) -> None:
        """See ObjectStore."""
        with on_disk(key):
            size = await asyncio.to_thread(lambda: path.stat().st_size)
            if size > PART_BYTES:
                with writing(key):
                    await self._patience.call(lambda: self._upload(key, path, size), tries=1)
                return
            data = await asyncio.to_thread(path.read_bytes)
        await self.put(key, data)

    async def delete(self, key: str) -> None:
        """See ObjectStore."""
        with suppress(NotFound), reading(key):
            await self._patience.call(lambda: self._delete(key))

    async def objects(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """See ObjectStore."""
        with reading(prefix):
            # A listing that has begun cannot be taken up again: stores sort as they like.
            batch, batches = await self._patience.call(lambda: self._listed(prefix), tries=1)
            while batch:
                for meta in batch:
                    yield ObjectInfo(meta["path"], meta["size"], meta["last_modified"])
                async with self._page():
                    batch = await anext(batches, None)

    async def folders(self, prefix: str) -> list[str]:
        """See ObjectStore."""
        with reading(prefix):
            found = await self._patience.call(lambda: self._folders(prefix), tries=1)
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found)

    async def _get(self, key: str, max_bytes: int | None) -> bytes:
        async with self._patience.limit():
            found = await obstore.get_async(self._backend, key)
        size = found.meta["size"]
        if max_bytes is not None and size > max_bytes:
            raise DataCorrupt(
                f"object {key} has {size} bytes; at most {max_bytes} are read",
                reason="OBJECT_TOO_LARGE",
                key=key,
            )
        async with self._patience.limit(size):
            data = bytes(await found.bytes_async())
        if len(data) != size:
            raise ConnectionResetError(f"it ended at {len(data)} of {size} bytes")
        return data

    async def _create(self, key: str, data: bytes) -> None:
        try:
            async with self._patience.limit(len(data)):
                await obstore.put_async(
                    self._backend, key, data, mode="create", use_multipart=False
                )
        except (AlreadyExistsError, FileExistsError) as error:
            # S3 refuses (409) whoever comes while another writes, who may fail yet.
            if not await self._is_there(key):
                raise ConnectionResetError("another writer was in the way") from error
            raise

    async def _is_there(self, key: str) -> bool:
        try:
            async with self._patience.limit():
                await obstore.head_async(self._backend, key)
        except (NotFoundError, FileNotFoundError):
            return False
        return True

    async def _put(self, key: str, data: bytes) -> None:
        async with self._patience.limit(len(data)):
            await obstore.put_async(self._backend, key, data, use_multipart=False)

    async def _upload(self, key: str, path: Path, size: int) -> None:
        try:
            async with self._patience.limit(size, self._patience.retry_seconds):
                await upload_in_parts(self._patient, key, path, size)
        except (NotFoundError, FileNotFoundError) as error:
            # A reply that was lost may have been that it is complete: then its id is gone.
            raise ConnectionResetError("the store does not know the upload any more") from error

    async def _delete(self, key: str) -> None:
        async with self._patience.limit():
            await obstore.delete_async(self._backend, key)

    async def _listed(self, prefix: str) -> tuple[Batch | None, AsyncIterator[Batch]]:
        """Return the first objects of a listing, and what yields the others."""
        batches = aiter(obstore.list(self._patient, prefix=prefix.rstrip("/") + "/"))
        async with self._page():
            return await anext(batches, None), batches

    async def _folders(self, prefix: str) -> Sequence[str]:
        async with self._page():
            found = await obstore.list_with_delimiter_async(
                self._patient, prefix=prefix.rstrip("/") + "/"
            )
        return found["common_prefixes"]

    def _page(self) -> asyncio.Timeout:
        return self._patience.limit(PART_BYTES, self._patience.retry_seconds)


def is_store_url(url: str) -> bool:
    """Return whether a store of a kind that open_store knows answers to `url`."""
    return urlsplit(url).scheme in {"file", "s3", "gs", "az"}


def open_store(
    url: str, retry_seconds: float = RETRY_SECONDS, stall_seconds: float = STALL_SECONDS
) -> ObstoreStore:
    """Open the store at `url`; a file:// folder is made if it is missing.

    A request that fails is tried again for `retry_seconds`, but for a folder's, and one that brings
    nothing for `stall_seconds` has failed. Raises InvalidArgument for a URL no store answers to.
    Credentials come from the environment, as obstore documents them.
    """
    if not is_store_url(url):
        raise InvalidArgument("object_store", f"{url!r} is not a file, s3, gs or az URL")
    try:
        if urlsplit(url).scheme == "file":
            path = Path(unquote(urlsplit(url).path))
            folder = LocalStore(path, mkdir=True, automatic_cleanup=True)
            return ObstoreStore(folder, patience=Patience(0.0, stall_seconds))
        patience = Patience(retry_seconds, stall_seconds)
        return ObstoreStore(
            _connected(url, {"max_retries": 0}, _NO_LIMIT_SECONDS),
            _connected(
                url,
                {
                    "max_retries": _MAX_RETRIES,
                    "retry_timeout": timedelta(seconds=retry_seconds),
                    "backoff": _PAUSES,
                },
                patience.seconds(PART_BYTES),
            ),
            patience,
        )
    except (BaseError, OSError, ValueError) as error:
        raise InvalidArgument("object_store", f"cannot open {url!r}: {error}") from error


def _connected(url: str, retries: RetryConfig, seconds: float) -> Backend:
    """Return the store at `url`, whose requests end after `seconds`, body and all.

    client_options would take the place of those in the environment, AWS_ALLOW_HTTP among them; and
    obstore 0.12 takes no timeout beside a URL. So the URL is taken apart first.
    """
    parsed = cast("S3Store", from_url(url))
    config = cast("S3Config", {**parsed.config, "timeout": f"{round(1000 * seconds)}ms"})
    return type(parsed)(prefix=parsed.prefix, config=config, retry_config=retries)


async def delete_folder(store: ObjectStore, prefix: str, *, first: str = "") -> None:
    """Delete every object under `prefix`; the one named `first` goes before the others.

    A reader takes a folder for complete while its manifest is there: name it as `first`.
    """
    if first:
        await store.delete(f"{prefix.rstrip('/')}/{first}")
    for key in [info.key async for info in store.objects(prefix)]:
        await store.delete(key)
