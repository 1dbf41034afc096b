"""What is said of a job that cannot go on."""

from __future__ import annotations

import re
import uuid

import structlog
import torch

from tailorbird.errors import FailedPrecondition, TailorbirdError, Unavailable
from tailorbird.local_disk import is_disk_full
from trainer_svc.jobs.model import JobError
from trainer_svc.protocol import OUT_OF_MEMORY, Failed, LeaseKey

DISK_FULL = "DISK_FULL"
_NO_MEMORY_ON_CPU = "can't allocate memory"
"""What torch's CPU allocator says; it has no exception of its own."""
_ASKED_FOR = re.compile(r"tried to allocate ([\d.]+ \w+)", re.IGNORECASE)
"""How torch says what there was no room for; the rest of its text speaks of other processes."""

log = structlog.get_logger(__name__)


def failure(lease: LeaseKey, error: BaseException, *, shared: bool) -> Failed:
    """Return the report of a job that `error` ended.

    What is not of our exception tree is a bug of ours: it is logged whole, and the tenant gets its
    type and an id to ask us with. No memory is the job's own fault unless other jobs, or several of
    its own trials, `shared` the device; then it may be tried again.
    """
    bound = log.bind(job=lease.job, lease_epoch=lease.epoch)
    if is_out_of_memory(error):
        bound.warning("out of memory", error=str(error))
        error = _no_memory(error)
    if isinstance(error, TailorbirdError):
        bound.warning("job failed", reason=error.reason, error=error.message)
        told = JobError(reason=error.reason, message=error.message, metadata=error.metadata)
        if error.reason == OUT_OF_MEMORY and shared:
            message = f"{error.message} (the device was shared: it is tried again, alone)"
            return Failed(
                lease=lease, error=told.model_copy(update={"message": message}), retryable=True
            )
        return Failed(lease=lease, error=told, retryable=isinstance(error, Unavailable))
    correlation_id = uuid.uuid4().hex
    bound.error("job failed", correlation_id=correlation_id, exc_info=error)
    told = JobError(
        reason="INTERNAL",
        message=f"{type(error).__name__} in the worker; correlation id {correlation_id}",
        metadata={"correlation_id": correlation_id},
    )
    return Failed(lease=lease, error=told)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether `error` says that a smaller forward pass might do."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _NO_MEMORY_ON_CPU in str(error)


def _no_memory(error: BaseException) -> FailedPrecondition:
    found = _ASKED_FOR.search(str(error))
    asked = {"asked": found[1]} if found else {}
    room = f" for {found[1]} more" if found else ""
    return FailedPrecondition(
        f"the worker's memory has no room{room}; lower the rank, target fewer modules or lower "
        "max_sequence_length",
        reason=OUT_OF_MEMORY,
        **asked,
    )


def ran_out_of_disk(error: BaseException) -> bool:
    """Tell whether a disk, the worker's own or the object store's, had no room."""
    if isinstance(error, OSError):
        return is_disk_full(error)
    return isinstance(error, TailorbirdError) and error.reason == DISK_FULL


def disk_full() -> JobError:
    """Return why a job waits for somebody to make room."""
    return JobError(
        reason=DISK_FULL,
        message="a disk of the trainer or of its object store is full; the job stands where its "
        "last checkpoint is: make room, then resume it",
    )
