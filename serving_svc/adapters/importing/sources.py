"""Where adapters may be imported from: URIs under prefixes that the settings allow to a tenant."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing
from pathlib import Path

from serving_svc.adapters.workers import Workers
from tailorbird.beneath import open_beneath
from tailorbird.errors import InvalidArgument, NotFound
from tailorbird.import_uri import TENANT, is_plain_uri
from tailorbird.manifest import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from tailorbird.names import TenantName
from tailorbird.object_store import ObjectStore

IMPORTED_FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)

FIELD = "import.uri"

_PIECE_BYTES = 2**20


class ImportSources:
    """Reads folders under `prefixes`, URIs in which `{tenant}` stands for the caller's tenant.

    The settings hold them to `is_import_prefix`. `open_store` opens the store at a prefix.
    """

    def __init__(
        self,
        prefixes: Sequence[str],
        workers: Workers,
        open_store: Callable[[str], ObjectStore],
    ) -> None:
        self._prefixes = tuple(prefix.removesuffix("/") for prefix in prefixes)
        self._workers = workers
        self._open_store = open_store

    def pieces(self, tenant: TenantName, uri: str) -> AsyncGenerator[tuple[str, memoryview], None]:
        """Yield (file, piece) for both files of the folder `uri`, each file's pieces in order.

        Raises InvalidArgument (URI_NOT_ALLOWED) at once if the URI is not under a prefix of the
        tenant, and while reading InvalidArgument (IMPORT_NOT_FOUND) and StoreUnavailable.
        """
        folder = uri.removesuffix("/")
        for template in self._prefixes if is_plain_uri(uri) else ():
            prefix = template.replace(TENANT, tenant.tenant)
            if folder == prefix or folder.startswith(f"{prefix}/"):
                inner = folder[len(prefix) + 1 :]
                return self._read(prefix, inner.split("/") if inner else [])
        raise _not_allowed(uri)

    async def _read(
        self, prefix: str, folder: Sequence[str]
    ) -> AsyncGenerator[tuple[str, memoryview], None]:
        for name in IMPORTED_FILES:
            parts = [*folder, name]
            pieces = (
                self._read_local(Path(prefix.removeprefix("file://")), parts)
                if prefix.startswith("file:")
                else self._read_remote(prefix, "/".join(parts))
            )
            async with aclosing(pieces):
                async for piece in pieces:
                    yield name, piece

    async def _read_remote(self, prefix: str, key: str) -> AsyncGenerator[memoryview, None]:
        try:
            async with aclosing(self._open_store(prefix).read(key)) as pieces:
                async for piece in pieces:
                    yield piece
        except NotFound as error:
            raise _not_found(f"{prefix}/{key}") from error

    async def _read_local(
        self, prefix: Path, parts: Sequence[str]
    ) -> AsyncGenerator[memoryview, None]:
        pieces = _read_beneath(prefix, parts)
        try:
            while (piece := await self._workers.run(next, pieces, None)) is not None:
                yield memoryview(piece)
        except FileNotFoundError as error:
            raise _not_found(f"file://{prefix.joinpath(*parts)}") from error
        except OSError as error:
            # A link, or what is neither a folder nor a file, shows as an error of its own kind.
            raise _not_allowed(f"file://{prefix.joinpath(*parts)}") from error
        finally:
            await self._workers.run(pieces.close)


def _read_beneath(prefix: Path, parts: Sequence[str]) -> Generator[bytes, None, None]:
    """Yield a regular file's bytes; follow no link beneath `prefix`. Blocking."""
    with open_beneath(prefix, parts) as opened:
        while piece := opened.read(_PIECE_BYTES):
            yield piece


def _not_allowed(uri: str) -> InvalidArgument:
    return InvalidArgument(
        FIELD,
        f"{uri[:200]!r} is not a folder under a prefix that this server allows to the tenant",
        reason="URI_NOT_ALLOWED",
    )


def _not_found(uri: str) -> InvalidArgument:
    return InvalidArgument(FIELD, f"{uri[:300]} does not exist", reason="IMPORT_NOT_FOUND")
