"""Which of an adapter's versions are garbage: those never committed, and those deleted long ago.

Of a deleted version the tombstone and the manifest stay: a replica that was away while it was
deleted must still find out, and versions that were trained on from it say by the manifest what
they have seen.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime

from tailorbird.manifest import MANIFEST
from tailorbird.names import AdapterName
from tailorbird.object_store import ObjectInfo
from tailorbird.registry import TOMBSTONE, AdapterRegistry
from trainer_svc.housekeeping.model import Garbage, Kind, newest
from trainer_svc.jobs.housekeeping import Standing

_KEPT_OF_DELETED = {TOMBSTONE, MANIFEST}
_VERSION_ID = re.compile(r"\d{8}T\d{6}-(.+)-\d{1,9}", re.ASCII)

Files = dict[str, dict[str, ObjectInfo]]
"""The files of each version, by the version's id and the file's name."""


async def version_files(registry: AdapterRegistry, adapter: AdapterName) -> Files:
    """Return what lies under an adapter's versions; one listing. StoreUnavailable."""
    prefix = f"{adapter}/versions/"
    found: Files = defaultdict(dict)
    async for info in registry.store.objects(prefix):
        version, _, file = info.key.removeprefix(prefix).partition("/")
        if _VERSION_ID.fullmatch(version):
            found[version][file] = info
    return found


def job_of(version: str) -> str:
    """Return the id of the job that a version's id names, whether or not there is such a job."""
    match = _VERSION_ID.fullmatch(version)
    return match[1] if match else ""


def uncommitted(
    adapter: AdapterName, files: Files, known: Mapping[str, Standing], before: datetime
) -> list[Garbage]:
    """Return versions without a manifest that no job will commit, not written to since `before`.

    `known` is what the job store says of their jobs.
    """
    found = []
    for version, its in sorted(files.items()):
        standing = known.get(job_of(version))
        if not its.keys().isdisjoint(_KEPT_OF_DELETED):
            continue
        if standing is not None and standing.version == version:
            continue
        if newest([*its.values()]) < before:
            objects = tuple(its.values())
            name = f"{adapter}/versions/{version}"
            found.append(Garbage(Kind.UNCOMMITTED_VERSIONS, name, objects))
    return found


async def deleted(
    registry: AdapterRegistry, adapter: AdapterName, files: Files, before: datetime
) -> list[Garbage]:
    """Return what can go of versions that were deleted before `before`; StoreUnavailable.

    Nothing of one that the newest route leads to: whoever routed it was told, and may want to see
    what it is.
    """
    found = []
    for version, its in sorted(files.items()):
        if TOMBSTONE in its and its[TOMBSTONE].modified < before:
            objects = tuple(info for file, info in its.items() if file not in _KEPT_OF_DELETED)
            if objects:
                found.append((version, objects))
    head = await registry.head(adapter) if found else None
    return [
        Garbage(Kind.DELETED_VERSIONS, f"{adapter}/versions/{version}", objects)
        for version, objects in found
        if head is None or not head.leads_to(version)
    ]
