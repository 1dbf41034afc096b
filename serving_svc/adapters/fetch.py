"""Brings a version from the object store to local disk, through the gate's checks of its files."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from dataclasses import dataclass
from pathlib import Path

from serving_svc.adapters.gate import (
    NEEDED_FILES,
    ServedBase,
    check_files,
    check_manifest,
    check_sizes,
)
from tailorbird.errors import AdapterRefused, DataCorrupt, NotFound
from tailorbird.manifest import AdapterManifest, Probes
from tailorbird.names import VersionName
from tailorbird.registry import AdapterRegistry


@dataclass(frozen=True, slots=True)
class StagedAdapter:
    """A version on local disk that has passed every check but the engine's own: size in bytes."""

    path: Path
    size: int
    probes: Probes


class AdapterFetcher:
    """Stages versions under `folder`, each in a folder that no other version ever has."""

    def __init__(
        self, registry: AdapterRegistry, base: ServedBase, folder: Path, max_weights_bytes: int
    ) -> None:
        self._registry = registry
        self._base = base
        self._folder = folder.resolve()
        self._max_weights_bytes = max_weights_bytes
        self._numbers = itertools.count(1)

    def clear(self) -> None:
        """Delete what an earlier process left. Blocking."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)

    async def stage(self, version: VersionName) -> StagedAdapter:
        """Fetch and check a version.

        Raises NotFound if it is not published, AdapterRefused if it fails a check, and
        StoreUnavailable.
        """
        manifest = await self._manifest(version)
        check_manifest(manifest, self._base)
        check_sizes(manifest, await self._stored_sizes(version), self._max_weights_bytes)
        path = self._folder / f"{next(self._numbers):06d}-{version.version}"
        path.mkdir()
        try:
            await self._download(version, path)
            probes = await asyncio.to_thread(check_files, path, manifest, self._base)
        except BaseException:
            await self.discard(path)
            raise
        return StagedAdapter(path, sum(manifest.files[name].size for name in NEEDED_FILES), probes)

    async def discard(self, path: Path) -> None:
        """Delete a staged folder."""
        await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)

    async def _manifest(self, version: VersionName) -> AdapterManifest:
        try:
            return await self._registry.manifest(version)
        except DataCorrupt as error:
            raise AdapterRefused(error.message, reason="MANIFEST_INVALID") from error

    async def _stored_sizes(self, version: VersionName) -> dict[str, int]:
        prefix = f"{version}/"
        return {
            info.key.removeprefix(prefix): info.size
            async for info in self._registry.store.objects(str(version))
        }

    async def _download(self, version: VersionName, path: Path) -> None:
        for name in NEEDED_FILES:
            try:
                await self._registry.store.download(f"{version}/{name}", path / name)
            except NotFound as error:
                raise AdapterRefused(f"{name} is missing", reason="DIGEST_MISMATCH") from error
