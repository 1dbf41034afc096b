"""Which checkpoints of a job are garbage: all of one that has ended, else what newer ones replaced.

What no newer one has replaced stays as long as the job may go on, however old it is.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from tailorbird.errors import DataCorrupt, NotFound
from tailorbird.names import JobName
from tailorbird.object_store import ObjectInfo, ObjectStore
from trainer_svc.checkpoints import CHECKPOINT_MANIFEST, checkpoints_prefix, lease_epoch
from trainer_svc.housekeeping.model import Garbage, Kind, newest

_NEWEST_KEPT = 2
"""Beside the best: as the worker keeps them."""
_MAX_MANIFEST_BYTES = 2**20
_PLACE = re.compile(r"(trial-\d+/)?(?:(lease-\d+)/)?(\d+)/[^/]+")


@dataclass(frozen=True, order=True)
class _Place:
    run: str
    """Folder of the trial that it is of; "" of a job of its own."""
    epoch: int
    step: int


async def checkpoint_garbage(
    store: ObjectStore, job: JobName, *, ended: bool, before: datetime
) -> list[Garbage]:
    """Return a job's checkpoints that nobody needs and nobody wrote to since `before`.

    One listing, and a few manifests where a worker left more than it keeps. StoreUnavailable.
    """
    prefix = f"{checkpoints_prefix(job)}/"
    found: defaultdict[_Place, list[ObjectInfo]] = defaultdict(list)
    async for info in store.objects(checkpoints_prefix(job)):
        if match := _PLACE.fullmatch(info.key.removeprefix(prefix)):
            run, lease, step = match.groups()
            found[_Place(run or "", lease_epoch(lease or "") or 0, int(step))].append(info)
    if not ended:
        kept = await _kept(store, found)
        found = defaultdict(list, {place: found[place] for place in found if place not in kept})
    return [
        Garbage(Kind.CHECKPOINTS, _folder(objects[0]), _manifest_first(objects))
        for place, objects in sorted(found.items())
        if newest(objects) < before
    ]


async def _kept(store: ObjectStore, found: dict[_Place, list[ObjectInfo]]) -> set[_Place]:
    """Return the places that a worker may go on from, or write to."""
    whole = sorted(place for place in found if any(map(_is_manifest, found[place])))
    kept: set[_Place] = set()
    for run in {place.run for place in whole}:
        last = max(place.epoch for place in whole if place.run == run)
        steps = [place for place in whole if (place.run, place.epoch) == (run, last)]
        kept |= {*steps[-_NEWEST_KEPT:]}
        if (best := await _best(store, steps, found)) is not None:
            kept.add(best)
    return kept


async def _best(
    store: ObjectStore, steps: list[_Place], found: dict[_Place, list[ObjectInfo]]
) -> _Place | None:
    """Return the newest that was the best when it was written, as `restore` finds it."""
    if len(steps) <= _NEWEST_KEPT:
        return None
    for place in reversed(steps):
        (manifest,) = filter(_is_manifest, found[place])
        # One that cannot be read is none that a worker would go on from.
        with suppress(NotFound, DataCorrupt, ValueError, RecursionError):
            content = json.loads(await store.get(manifest.key, _MAX_MANIFEST_BYTES))
            if isinstance(content, dict) and content.get("best") is True:
                return place
    return None


def _is_manifest(info: ObjectInfo) -> bool:
    return info.key.rpartition("/")[2] == CHECKPOINT_MANIFEST


def _manifest_first(objects: Iterable[ObjectInfo]) -> tuple[ObjectInfo, ...]:
    return tuple(sorted(objects, key=lambda info: (not _is_manifest(info), info.key)))


def _folder(info: ObjectInfo) -> str:
    return info.key.rpartition("/")[0]
