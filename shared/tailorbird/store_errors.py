"""What the object store's driver and the disks raise, as errors of our own."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from obstore.exceptions import AlreadyExistsError, BaseError, GenericError, NotFoundError

from tailorbird.errors import Conflict, NotFound, StoreUnavailable
from tailorbird.local_disk import is_disk_full

_RETRY_AFTER = 5.0
"""Seconds that callers are told to wait: we have tried for a while ourselves."""
_OS_ERROR = re.compile(r"\(os error (\d{1,4})\)")
_STATUS = re.compile(r"status code: (\d{3}(?: [A-Z][A-Za-z]*)*)")
_PASSING = {"408", "429"}
"""Statuses of a request that was right, and came at the wrong time."""
_NO_REQUEST = "builder error"
"""Of a URL that may not be asked at all, such as http:// without AWS_ALLOW_HTTP."""
_CONNECTION = "HTTP error: "
_NO_ROOM = (f"(os error {errno.ENOSPC})", f"(os error {errno.EDQUOT})", "status code: 507 ")
_NO_FOLDER = "LocalFileSystem error: Unable to create dir "
_RACED = (f"(os error {errno.ENOENT})", f"(os error {errno.EEXIST})")

Driver = BaseError | OSError
"""What the driver raises: errors of its own, and the system's."""


class ObjectExists(Conflict):
    """A create-only put found an object under its key.

    It may be the caller's own: of an earlier try, whose reply was lost. Compare what is there.
    """

    default_reason = "OBJECT_EXISTS"


@contextmanager
def reading(key: str) -> Iterator[None]:
    """Raise NotFound (OBJECT_NOT_FOUND) and StoreUnavailable for what the driver raises."""
    try:
        yield
    except (NotFoundError, FileNotFoundError) as error:
        raise NotFound(f"object {key}", reason="OBJECT_NOT_FOUND") from error
    except (BaseError, OSError) as error:
        raise _unavailable(key, error) from error


@contextmanager
def writing(key: str) -> Iterator[None]:
    """Raise ObjectExists and StoreUnavailable for what the driver raises.

    What is not found is no object then, but the bucket.
    """
    try:
        yield
    except (AlreadyExistsError, FileExistsError) as error:
        raise ObjectExists(f"object {key} exists", key=key) from error
    except (BaseError, OSError) as error:
        raise _unavailable(key, error) from error


@contextmanager
def on_disk(key: str) -> Iterator[None]:
    """Raise StoreUnavailable for what this machine's disk raises where `key` is kept on it."""
    try:
        yield
    except OSError as error:
        raise _unavailable(key, error) from error


def may_pass(error: Driver) -> bool:
    """Tell whether the same request may succeed in a moment."""
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    if not isinstance(error, GenericError) or _no_room(error):
        return False
    text = str(error)
    refused = _STATUS.search(text)
    if refused is None:
        return _NO_REQUEST not in text
    return refused[1][0] == "5" or refused[1][:3] in _PASSING


def is_folder_race(error: Driver) -> bool:
    """Tell whether a folder went, with the last object in it, as another was put there."""
    return _NO_FOLDER in str(error) and any(told in str(error) for told in _RACED)


def _unavailable(key: str, error: Driver) -> StoreUnavailable:
    return StoreUnavailable(
        f"the object store failed at {key}: {_cause(error)}",
        reason="DISK_FULL" if _no_room(error) else None,
        retry_after=_RETRY_AFTER,
        key=key,
    )


def _cause(error: Driver) -> str:
    """Say what failed in the system's words; a driver's own text may have paths and addresses."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = str(error)
    if found := _STATUS.search(text):
        return found[1]
    number = error.errno if isinstance(error, OSError) else None
    if found := _OS_ERROR.search(text):
        number = int(found[1])
    if number is not None:
        return os.strerror(number)
    return "the connection failed" if _CONNECTION in text else type(error).__name__


def _no_room(error: Driver) -> bool:
    if isinstance(error, OSError):
        return is_disk_full(error)
    return any(told in str(error) for told in _NO_ROOM)
