"""Where a job's checkpoints lie in the object store, and how they go. No torch here.

tenants/{tenant}/jobs/{job}/checkpoints/lease-{epoch:06d}/{step:08d}/...     manifest.json last
tenants/{tenant}/jobs/{job}/checkpoints/trial-{trial:02d}/lease-{epoch:06d}/{step:08d}/...
                                                                             of a sweep's trial

Each lease of a job writes into a folder of its own, so that a holder that lost its lease and does
not know it yet never writes where the next one does. Earlier releases wrote {step:08d}/ without
the lease's folder.
"""

from __future__ import annotations

import re

from tailorbird.names import JobName
from tailorbird.object_store import ObjectStore, delete_folder

CHECKPOINT_MANIFEST = "manifest.json"
_LEASE = re.compile(r"lease-(\d{1,18})")


def checkpoints_prefix(job: JobName) -> str:
    """Return the folder of all of the job's checkpoints."""
    return f"{job}/checkpoints"


def trial_prefix(job: JobName, trial: int) -> str:
    """Return the folder of all checkpoints of one trial of a sweep."""
    return f"{checkpoints_prefix(job)}/trial-{trial:02d}"


def lease_folder(epoch: int) -> str:
    """Return the name of the folder that one lease of a job writes its checkpoints into."""
    return f"lease-{epoch:06d}"


def lease_epoch(folder: str) -> int | None:
    """Return the epoch whose checkpoints a folder holds; None if it is no lease's."""
    found = _LEASE.fullmatch(folder)
    return int(found[1]) if found else None


async def delete_checkpoints(store: ObjectStore, job: JobName) -> None:
    """Delete every checkpoint of a job that has ended; StoreUnavailable if the store is down."""
    for folder in await store.folders(checkpoints_prefix(job)):
        await delete_folder(store, f"{checkpoints_prefix(job)}/{folder}", first=CHECKPOINT_MANIFEST)
