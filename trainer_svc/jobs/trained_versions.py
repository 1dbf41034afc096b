"""Which versions have seen data: by the lineage in their manifests, whatever became of the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import partial

from tailorbird.errors import DataCorrupt, InvalidArgument, NotFound
from tailorbird.manifest import Lineage
from tailorbird.names import AdapterName, TenantName, VersionName
from tailorbird.registry import AdapterRegistry

_READS = 16
"""Manifests read at once."""
_MOST_ANCESTORS = 64
"""Versions that one version's lineage is followed back through."""


class Use(StrEnum):
    """How a version came to know data; see dataset.proto."""

    TRAINED = "TRAINED"
    VALIDATED = "VALIDATED"
    INHERITED = "INHERITED"


@dataclass(frozen=True)
class TrainedVersion:
    """A version and data that it has seen; see `tailorbird.tuning.v1.TrainedVersion`."""

    version: str
    use: Use
    dataset: str
    sha256: str
    job: str
    create_time: datetime
    deleted: bool
    inherited_from: str = ""
    held_out_records: int | None = None


@dataclass
class TrainedPage:
    """Versions that have seen the data, and those of which it is not known.

    The next page goes on after `position`, "" after the last.
    """

    versions: list[TrainedVersion] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    position: str = ""


class TrainedVersions:
    """Follows lineages through a tenant's versions."""

    def __init__(self, registry: AdapterRegistry) -> None:
        self._registry = registry

    async def page(
        self, tenant: TenantName, sha256s: Collection[str], limit: int, after: str = ""
    ) -> TrainedPage:
        """Look at up to `limit` versions after the position `after`, for any of these datasets.

        A listing for the adapters, and one for each of those that are looked into, which counts as
        a version; two reads for each version, and for those it was trained on from as many again.
        Raises StoreUnavailable.
        """
        names, position = await self._next(tenant, limit, after)
        page, lineages = TrainedPage(position=position), _Lineages(self._registry)
        for at in range(0, len(names), _READS):
            batch = names[at : at + _READS]
            await asyncio.gather(*map(lineages.of, batch))
            for name in batch:
                await _look(name, sha256s, lineages, page)
        return page

    async def line(self, version: VersionName, most: int) -> list[Origin]:
        """Return a version and those that its training began with, nearest first, at most `most`.

        It ends where a manifest is gone or cannot be read. Raises StoreUnavailable.
        """
        lineages = _Lineages(self._registry)
        known = await lineages.of(version)
        found = [] if known.origin is None else [known.origin]
        async with aclosing(lineages.ancestors(version)) as ancestors:
            async for parent in ancestors:
                if parent is None or len(found) == most:
                    break
                found.append(parent)
        return found

    async def _next(
        self, tenant: TenantName, limit: int, after: str
    ) -> tuple[list[VersionName], str]:
        """Return the versions to look at, and the position to go on after.

        That is {adapter}/{version}, or {adapter} where all of its versions were looked at.
        """
        names: list[VersionName] = []
        begun, _, version = after.partition("/")
        position = ""
        for adapter in await self._registry.adapter_names(tenant):
            if adapter.adapter < begun or (adapter.adapter == begun and not version):
                continue
            if limit <= 0:
                return names, position
            found = await self._versions(adapter, version if adapter.adapter == begun else "")
            names += found[:limit]
            if len(found) > limit:
                return names, f"{adapter.adapter}/{names[-1].version}"
            limit -= max(len(found), 1)
            position = adapter.adapter
        return names, ""

    async def _versions(self, adapter: AdapterName, after: str) -> list[VersionName]:
        """Return the adapter's versions after an id, the oldest first."""
        names = await self._registry.version_names(adapter)
        return [each for each in reversed(names) if each.version > after]


@dataclass(frozen=True, slots=True)
class Origin:
    """What is held of a manifest, which names every tensor and file."""

    version: str
    create_time: datetime
    lineage: Lineage


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a version: None of one that is not published, or cannot be read."""

    origin: Origin | None = None
    deleted: bool = False
    broken: bool = False


class _Lineages:
    """Reads manifests, each once."""

    def __init__(self, registry: AdapterRegistry) -> None:
        self._registry = registry
        self._known: dict[VersionName, _Known] = {}

    async def of(self, name: VersionName) -> _Known:
        """Return what is known of a version."""
        if name not in self._known:
            self._known[name] = await self._read(name)
        return self._known[name]

    async def ancestors(self, name: VersionName) -> AsyncGenerator[Origin | None]:
        """Yield what a version's training began with, the nearest first.

        None, and no more, where a manifest is gone or cannot be read, or they are too many.
        """
        known = await self.of(name)
        for _ in range(_MOST_ANCESTORS):
            if known.origin is None or not known.origin.lineage.from_version:
                return
            parent = _of_tenant(name, known.origin.lineage.from_version)
            known = _Known() if parent is None else await self.of(parent)
            yield known.origin
        yield None

    async def _read(self, name: VersionName) -> _Known:
        try:
            manifest = await self._registry.stored_manifest(name)
        except NotFound:
            return _Known()
        except DataCorrupt:
            return _Known(broken=True)
        origin = Origin(manifest.version, manifest.create_time, manifest.lineage)
        return _Known(origin, await self._registry.tombstone(name) is not None)


def _of_tenant(name: VersionName, version: str) -> VersionName | None:
    """Return a version that a manifest names if it is of the same tenant."""
    try:
        found = VersionName.parse(version)
    except InvalidArgument:
        return None
    return found if found.tenant == name.tenant else None


async def _look(
    name: VersionName, sha256s: Collection[str], lineages: _Lineages, page: TrainedPage
) -> None:
    known = await lineages.of(name)
    origin = known.origin
    if origin is None:
        page.unknown += [str(name)] if known.broken else []
        return
    seen: list[TrainedVersion] = []
    told = partial(_version, origin, deleted=known.deleted)
    lineage = origin.lineage
    trained = {lineage.training_dataset_sha256}
    if lineage.training_dataset_sha256 in sha256s:
        seen.append(told(Use.TRAINED, lineage))
    async for parent in lineages.ancestors(name):
        if parent is None:
            page.unknown += [] if seen else [str(name)]
            break
        sha256 = parent.lineage.training_dataset_sha256
        if sha256 in sha256s and sha256 not in trained:
            seen.append(told(Use.INHERITED, parent.lineage, parent.version))
        trained.add(sha256)
    validation = lineage.validation_dataset_sha256
    if validation in sha256s and validation not in trained:
        seen.append(told(Use.VALIDATED, lineage))
    page.versions += seen


def _version(
    origin: Origin, use: Use, of: Lineage, parent: str = "", *, deleted: bool
) -> TrainedVersion:
    validated = use is Use.VALIDATED
    return TrainedVersion(
        version=origin.version,
        use=use,
        dataset=of.validation_dataset if validated else of.training_dataset,
        sha256=of.validation_dataset_sha256 if validated else of.training_dataset_sha256,
        job=origin.lineage.job,
        create_time=origin.create_time,
        deleted=deleted,
        inherited_from=parent,
        held_out_records=of.held_out_records if use is Use.TRAINED else None,
    )
