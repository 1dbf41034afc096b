"""Whether the object store can be used, asked once at a service's start."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tailorbird.errors import NotFound, StoreUnavailable
from tailorbird.object_store import open_store

_SECONDS = 15.0
_MAX_TEXT = 300


async def check_store(url: str, seconds: float = _SECONDS) -> None:
    """Return when the store has listed a folder of its own.

    Raises StoreUnavailable, with the driver's words, if it cannot be reached within `seconds`,
    refuses our credentials, or has no such bucket.
    """
    if urlsplit(url).scheme == "file":
        _check_folder(Path(unquote(urlsplit(url).path)))
    store = open_store(url, retry_seconds=seconds / 3)
    try:
        async with asyncio.timeout(seconds):
            await store.folders("profiles")
    except TimeoutError as error:
        raise _unusable(url, f"it does not answer within {seconds:g} s") from error
    except (StoreUnavailable, NotFound) as error:
        raise _unusable(url, _text(error)) from error


def _check_folder(path: Path) -> None:
    # Path.exists raises where a folder above may not be looked into: opening the store tells that.
    if os.path.lexists(path) and not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise _unusable(path.as_uri(), "the folder cannot be written")


def _text(error: Exception) -> str:
    """Return what the driver said, in one line: it quotes answers over many."""
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {' '.join(str(cause).split())}"[:_MAX_TEXT]


def _unusable(url: str, problem: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"the object store {url!r} cannot be used: {problem}", setting="object_store"
    )
