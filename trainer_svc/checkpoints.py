"""Where a job's checkpoints lie in the object store, and how they go. No torch here.

tenants/{tenant}/jobs/{job}/checkpoints/{step:08d}/...                     manifest.json last
tenants/{tenant}/jobs/{job}/checkpoints/trial-{trial:02d}/{step:08d}/...   of a sweep's trial
"""

from __future__ import annotations

from tailorbird.names import JobName
from tailorbird.object_store import ObjectStore, delete_folder

CHECKPOINT_MANIFEST = "manifest.json"


def checkpoints_prefix(job: JobName) -> str:
    """Return the folder of all of the job's checkpoints."""
    return f"{job}/checkpoints"


def trial_prefix(job: JobName, trial: int) -> str:
    """Return the folder of all checkpoints of one trial of a sweep."""
    return f"{checkpoints_prefix(job)}/trial-{trial:02d}"


async def delete_checkpoints(store: ObjectStore, job: JobName) -> None:
    """Delete every checkpoint of a job that has ended; StoreUnavailable if the store is down."""
    for folder in await store.folders(checkpoints_prefix(job)):
        await delete_folder(store, f"{checkpoints_prefix(job)}/{folder}", first=CHECKPOINT_MANIFEST)
