"""Deleting objects, some at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tailorbird.object_store import ObjectInfo, ObjectStore
from trainer_svc.housekeeping.model import Garbage, Tally

_AT_ONCE = 8


class Removal:
    """Removes garbage and counts it; with `dry_run` only counts it."""

    def __init__(self, store: ObjectStore, tally: Tally, *, dry_run: bool) -> None:
        self._store = store
        self._tally = tally
        self._dry_run = dry_run

    async def remove(self, garbage: Garbage) -> None:
        """Delete its objects, the first of them before the others; StoreUnavailable.

        What is gone by then is not counted: the next round finds and counts the rest.
        """
        if not self._dry_run:
            first, *others = garbage.objects
            await self._store.delete(first.key)
            await delete_all(self._store, others)
        bytes_ = sum(info.size for info in garbage.objects)
        self._tally.add(garbage.kind, len(garbage.objects), bytes_)


async def delete_all(store: ObjectStore, objects: Sequence[ObjectInfo]) -> None:
    """Delete objects, eight at a time; StoreUnavailable, when no other deletion is under way."""
    for at in range(0, len(objects), _AT_ONCE):
        deletions = (store.delete(info.key) for info in objects[at : at + _AT_ONCE])
        results = await asyncio.gather(*deletions, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
