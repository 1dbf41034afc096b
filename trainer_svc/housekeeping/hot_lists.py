"""Which replicas' lists of hot versions are garbage: old ones, unless there is no newer one.

replicas/{profile}/{replica}/hot.json   what serving had in its engine: a hint for its next start
"""

from __future__ import annotations

import re
from collections import defaultdict
from datetime import datetime

from tailorbird.object_store import ObjectInfo, ObjectStore
from trainer_svc.housekeeping.model import Garbage, Kind

_HOT = re.compile(r"replicas/([^/]+)/[^/]+/hot\.json")


async def hot_list_garbage(store: ObjectStore, before: datetime) -> list[Garbage]:
    """Return the lists not written since `before`, but a profile's newest; StoreUnavailable."""
    found: defaultdict[str, list[ObjectInfo]] = defaultdict(list)
    async for info in store.objects("replicas"):
        if match := _HOT.fullmatch(info.key):
            found[match[1]].append(info)
    return [
        Garbage(Kind.HOT_LISTS, info.key, (info,))
        for lists in found.values()
        for info in sorted(lists, key=lambda info: (info.modified, info.key))[:-1]
        if info.modified < before
    ]
