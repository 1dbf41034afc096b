"""Where datasets may be imported from: files under prefixes allowed to a tenant."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from io import FileIO
from pathlib import Path
from typing import ParamSpec, TypeVar

import structlog
from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

from tailorbird.beneath import open_beneath
from tailorbird.errors import (
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    StoreUnavailable,
)
from tailorbird.import_uri import EVERYONE, TENANT, is_plain_uri
from tailorbird.names import TenantName
from tailorbird.object_store import ObjectStore
from tailorbird.turns import Turns

_log = structlog.get_logger(__name__)

_PIECE_BYTES = 2**20
_AT_ONCE = 8
_AT_ONCE_OF_A_TENANT = 2
_MAX_TOLD = 200
_NO_FILE = (None, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO)
"""What a link, a folder, a pipe and a socket show as beneath a prefix."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


class DatasetSources:
    """Reads files by their URIs; a few at a time, and of one tenant fewer.

    `prefixes` are folders by tenant: the settings hold them to `is_import_prefix` where they are
    EVERYONE's, and to be plain otherwise. `open_store` opens the store at one; it may block.
    """

    def __init__(
        self,
        prefixes: Mapping[str, Iterable[str]],
        open_store: Callable[[str], ObjectStore],
    ) -> None:
        self._prefixes = {
            tenant: tuple(one.removesuffix("/") for one in of_tenant)
            for tenant, of_tenant in prefixes.items()
        }
        self._open_store = open_store
        self._turns = Turns(
            _AT_ONCE,
            of_a_tenant=_AT_ONCE_OF_A_TENANT,
            waiting="files to be read",
            reason="IMPORTS_WAITING",
        )
        # Threads of their own: a disk that hangs holds up nobody but who imports from it.
        self._threads = ThreadPoolExecutor(_AT_ONCE, "dataset-import")

    async def pieces(self, tenant: TenantName, uri: str, field: str) -> AsyncGenerator[bytes, None]:
        """Wait for the tenant's turn and yield the file's bytes, in pieces of about 1 MiB.

        `field` is what errors name. Raises InvalidArgument (URI_NOT_ALLOWED), NotFound
        (OBJECT_NOT_FOUND), FailedPrecondition (SOURCE_REFUSED), StoreUnavailable
        (SOURCE_UNAVAILABLE) and Conflict (SOURCE_CHANGED). Closing it gives the turn back.
        """
        prefix, key = self._allowed(tenant, uri, field)
        async with self._turns.turn(tenant.tenant):
            reading = (
                self._local(Path(prefix.removeprefix("file://")), key)
                if prefix.startswith("file:")
                else self._remote(prefix, key)
            )
            with _told(uri, field):
                async with aclosing(reading) as pieces:
                    async for piece in pieces:
                        yield piece

    def _allowed(self, tenant: TenantName, uri: str, field: str) -> tuple[str, str]:
        """Return the tenant's prefix that a URI is under, and the rest of it."""
        if is_plain_uri(uri) and not uri.endswith("/"):
            everyone = (
                one.replace(TENANT, tenant.tenant) for one in self._prefixes.get(EVERYONE, ())
            )
            for prefix in (*self._prefixes.get(tenant.tenant, ()), *everyone):
                if uri.startswith(f"{prefix}/"):
                    return prefix, uri[len(prefix) + 1 :]
        raise _not_allowed(uri, field)

    async def _remote(self, prefix: str, key: str) -> AsyncGenerator[bytes, None]:
        store = await self._work(self._open_store, prefix)
        async with aclosing(store.read(key)) as pieces:
            async for piece in pieces:
                yield bytes(piece)

    async def _local(self, prefix: Path, key: str) -> AsyncGenerator[bytes, None]:
        opened: list[FileIO] = []
        try:
            # Kept there, so that it is closed where the call is cancelled meanwhile.
            await self._work(lambda: opened.append(open_beneath(prefix, key.split("/"))))
            (file,) = opened
            before = _state(file)
            while piece := await self._work(file.read, _PIECE_BYTES):
                yield piece
            if _state(file) != before:
                raise Conflict(f"{key} was written to while it was read", reason="SOURCE_CHANGED")
        finally:
            for each in opened:
                await self._work(each.close)

    async def _work(self, do: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run `do` in a thread; also a call that is cancelled waits until it is done."""
        running = asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: do(*args, **kwargs)
        )
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            # Its file is closed next, and must not be in use then.
            await asyncio.wait({running})
            raise


def _state(file: FileIO) -> tuple[int, int]:
    found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns


@contextmanager
def _told(uri: str, field: str) -> Iterator[None]:
    """Say of the source's errors what they are to a caller who knows nothing but the URI."""
    try:
        yield
    except (NotFound, FileNotFoundError) as error:
        raise _not_there(uri, field) from error
    except StoreUnavailable as error:
        if isinstance(error.__cause__, PermissionDeniedError | UnauthenticatedError):
            raise _refused(uri, field) from error
        raise _unavailable(uri, field, error.__cause__ or error) from error
    except PermissionError as error:
        raise _refused(uri, field) from error
    except InvalidArgument as error:
        # Its text has the operator's settings.
        _log.warning("source cannot be opened", uri=uri, error=error.message)
        raise _refused(uri, field) from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise _not_there(uri, field) from error
        if error.errno in _NO_FILE:
            raise _not_allowed(uri, field) from error
        raise _unavailable(uri, field, error) from error


def _not_there(uri: str, field: str) -> NotFound:
    error = NotFound(uri[:_MAX_TOLD], reason="OBJECT_NOT_FOUND")
    error.metadata["field"] = field
    return error


def _not_allowed(uri: str, field: str) -> InvalidArgument:
    return InvalidArgument(
        field,
        f"{uri[:_MAX_TOLD]!r} is not the URI of one file under a prefix that this trainer allows "
        "to the tenant",
        reason="URI_NOT_ALLOWED",
    )


def _refused(uri: str, field: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"the trainer may not read {uri[:_MAX_TOLD]}: its credentials are its operator's to give",
        reason="SOURCE_REFUSED",
        field=field,
    )


def _unavailable(uri: str, field: str, cause: BaseException) -> StoreUnavailable:
    return StoreUnavailable(
        f"{uri[:_MAX_TOLD]} could not be read to its end: {type(cause).__name__}",
        reason="SOURCE_UNAVAILABLE",
        field=field,
    )
