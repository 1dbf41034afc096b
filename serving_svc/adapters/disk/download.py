"""Brings a version from the object store to a local folder, through the gate's checks of its files.

The store is awaited on the loop, so that one that hangs takes no thread; bytes are written, and the
files are checked, in the workers' threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from io import FileIO
from pathlib import Path

from serving_svc.adapters.disk.index import RECORD, delete, read_manifest
from serving_svc.adapters.gate import (
    NEEDED_FILES,
    ServedBase,
    check_files,
    check_manifest,
    check_sizes,
)
from serving_svc.adapters.workers import Workers
from tailorbird.errors import AdapterRefused, DataCorrupt, NotFound, StoreUnavailable
from tailorbird.manifest import AdapterManifest, Probes
from tailorbird.names import VersionName
from tailorbird.registry import AdapterRegistry


class VersionSource:
    """Reads versions from the registry, and waits at most `stall_seconds` for the next bytes.

    `max_weights_bytes` is the largest adapter_model.safetensors accepted.
    """

    def __init__(
        self,
        registry: AdapterRegistry,
        base: ServedBase,
        workers: Workers,
        *,
        max_weights_bytes: int,
        stall_seconds: float,
    ) -> None:
        self._registry = registry
        self._base = base
        self._workers = workers
        self._max_weights_bytes = max_weights_bytes
        self._stall_seconds = stall_seconds

    async def manifest(self, version: VersionName) -> AdapterManifest:
        """Return the manifest of a version that passes every check made before its download.

        Raises NotFound if it is not published or deleted, AdapterRefused, and StoreUnavailable.
        """
        async with self._patience(version):
            stored = await self._stored_sizes(version)
        try:
            async with self._patience(version):
                manifest = await self._registry.manifest(version)
        except DataCorrupt as error:
            raise AdapterRefused(error.message, reason="MANIFEST_INVALID") from error
        await self._workers.run(self._check, manifest, stored)
        return manifest

    async def check_present(self, version: VersionName) -> None:
        """Raise NotFound if the version is deleted or vanished; StoreUnavailable."""
        async with self._patience(version):
            await self._registry.check_present(version)

    async def fetch(
        self, version: VersionName, manifest: AdapterManifest, record: bytes, path: Path
    ) -> Probes:
        """Make the folder `path`, with the version's checked files and its record, or nothing.

        Never writes more bytes than the manifest declares. Raises AdapterRefused, StoreUnavailable,
        and OSError of the disk.
        """
        try:
            await self._workers.run(path.mkdir)
            await self._download(version, manifest, path)
            probes = await self._workers.run(check_files, path, manifest, self._base)
            # Last: from here on a restart finds the version.
            await self._workers.run(append, path / RECORD, record)
        except BaseException:
            await self._workers.run(delete, path)
            raise
        return probes

    async def check(self, path: Path) -> Probes:
        """Check a folder that an earlier process fetched, by its record and without the store.

        Raises AdapterRefused (DIGEST_MISMATCH: its bytes have changed), DataCorrupt and OSError.
        """
        return await self._workers.run(self._check_folder, path)

    async def _download(self, version: VersionName, manifest: AdapterManifest, path: Path) -> None:
        for name in NEEDED_FILES:
            try:
                await self._download_file(version, name, manifest.files[name].size, path)
            except NotFound as error:
                raise AdapterRefused(f"{name} is missing", reason="DIGEST_MISMATCH") from error

    async def _download_file(self, version: VersionName, name: str, size: int, path: Path) -> None:
        left = size
        async with aclosing(self._registry.store.read(f"{version}/{name}")) as pieces:
            piece: memoryview | None = memoryview(b"")
            while piece is not None:
                left -= len(piece)
                if left < 0:
                    raise AdapterRefused(
                        f"{name} has more than the {size} bytes of its manifest",
                        reason="DIGEST_MISMATCH",
                    )
                await self._workers.run(append, path / name, piece)
                async with self._patience(version):
                    piece = await anext(pieces, None)

    async def _stored_sizes(self, version: VersionName) -> dict[str, int]:
        prefix = f"{version}/"
        return {
            info.key.removeprefix(prefix): info.size
            async for info in self._registry.store.objects(str(version))
        }

    def _check_folder(self, path: Path) -> Probes:
        manifest = read_manifest(path)
        self._check(manifest, {file.name: file.stat().st_size for file in path.iterdir()})
        return check_files(path, manifest, self._base)

    def _check(self, manifest: AdapterManifest, stored: dict[str, int]) -> None:
        check_manifest(manifest, self._base)
        check_sizes(manifest, stored, self._max_weights_bytes)

    @asynccontextmanager
    async def _patience(self, version: VersionName) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._stall_seconds):
                yield
        except TimeoutError as error:
            raise StoreUnavailable(
                f"the object store gave no byte of {version} for {self._stall_seconds:g} s"
            ) from error


def append(path: Path, piece: bytes | memoryview) -> None:
    """Write `piece` to the end of the file at `path`, which is made if there is none. Blocking."""
    with open_unbuffered(path) as file:
        left = memoryview(piece)
        # A disk that is nearly full takes a part, and says so at the next try.
        while left:
            left = left[file.write(left) :]


def open_unbuffered(path: Path) -> FileIO:
    """Open the file at `path` for writing at its end: an error shows where it happens."""
    return FileIO(path, "ab")
