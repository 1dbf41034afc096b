"""A disk without room, said to whoever sends what does not fit on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tailorbird.errors import ResourceExhausted, StoreUnavailable
from tailorbird.local_disk import is_disk_full


@contextmanager
def full_disk_told() -> Iterator[None]:
    """Raise ResourceExhausted (DISK_FULL) for what the block raises of a full disk."""
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise ResourceExhausted(
            "the trainer's disk is full", reason="DISK_FULL", retry_after=60
        ) from error
    except StoreUnavailable as error:
        if error.reason != "DISK_FULL":
            raise
        raise ResourceExhausted(
            "the object store's disk is full", reason="DISK_FULL", retry_after=60
        ) from error
