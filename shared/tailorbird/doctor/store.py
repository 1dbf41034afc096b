"""The object store, tried as the services use it: an object written, read, listed and deleted."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tailorbird.doctor.finding import Finding, failed, ok
from tailorbird.doctor.folders import nearest
from tailorbird.errors import DataCorrupt, InvalidArgument, NotFound, TailorbirdError
from tailorbird.object_store import ObjectStore, open_store

_FOLDER = "doctor"
_CONTENT = b"a probe of tailorbird doctor; to be deleted"
_RETRY_SECONDS, _DELETE_SECONDS = 3.0, 3.0
_ADVICE = (
    (
        ("RequestTimeTooSkewed", "too skewed"),
        "set this machine's clock: the store refuses what was signed at another time",
    ),
    (
        ("NoSuchBucket", "ContainerNotFound", "bucket does not exist"),
        "make the bucket, or name the right one in TAILORBIRD_OBJECT_STORE",
    ),
    (
        ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken"),
        "correct the credentials in the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, or"
        " what your cloud has in their place",
    ),
    (
        ("PermissionDenied", "Unauthenticated", "AccessDenied", "403", "401"),
        "give these credentials the rights to get, put, list and delete under the URL of"
        " TAILORBIRD_OBJECT_STORE",
    ),
    (
        ("169.254.", "credential"),
        "no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the"
        " machine a role",
    ),
    (
        ("builder error", "URL scheme is not allowed"),
        "an endpoint of http:// needs AWS_ALLOW_HTTP=true",
    ),
)
_REACH = (
    "check the store's address and the way there: AWS_ENDPOINT_URL, AWS_REGION, the proxy, the"
    " network policy"
)


def store(url: str, seconds: float = 15.0) -> Iterator[Finding]:
    """Tell whether the store can be used; a folder that is not there yet is not made."""
    parts = urlsplit(url)
    if parts.scheme == "file" and not os.path.lexists(path := Path(unquote(parts.path))):
        existing = nearest(path)
        if os.access(existing, os.W_OK | os.X_OK) and existing.is_dir():
            yield ok("object store", f"{path} (made at the first start)")
        else:
            advice = "let the service's user write there, or set TAILORBIRD_OBJECT_STORE"
            yield failed("object store", f"{path} cannot be made: {existing} is no use", advice)
        return
    yield asyncio.run(_tried(url, seconds))


async def _tried(url: str, seconds: float) -> Finding:
    step, key = "opened", f"{_FOLDER}/{uuid.uuid4().hex}"
    found: ObjectStore | None = None
    try:
        async with asyncio.timeout(seconds):
            found = open_store(url, retry_seconds=_RETRY_SECONDS)
            step = "written"
            await found.put(key, _CONTENT)
            step = "read"
            if await found.get(key) != _CONTENT:
                raise DataCorrupt("what was read is not what was written")
            step = "listed"
            if key not in [one.key async for one in found.objects(_FOLDER)]:
                raise DataCorrupt("the list lacks what was written")
            step = "deleted"
            await found.delete(key)
    except TimeoutError:
        told = f"{url}: nothing could be {step} within {seconds:g} s"
        return failed("object store", told, _REACH)
    except (TailorbirdError, OSError) as error:
        if found is not None and step != "written":
            await _deleted(found, key)
        told = _text(error)
        return failed("object store", f"{url}: nothing could be {step}: {told}", _advice(url, told))
    return ok("object store", f"{url}: an object was written, read, listed and deleted")


async def _deleted(found: ObjectStore, key: str) -> None:
    with suppress(TailorbirdError, OSError, TimeoutError):
        async with asyncio.timeout(_DELETE_SECONDS):
            await found.delete(key)


def _text(error: Exception) -> str:
    if isinstance(error, InvalidArgument):
        return error.description
    cause = error.__cause__ if isinstance(error, TailorbirdError) and error.__cause__ else error
    # A store's own message may be over many lines, in XML.
    return f"{type(cause).__name__}: {' '.join(str(cause).split())}"


def _advice(url: str, told: str) -> str:
    if urlsplit(url).scheme == "file":
        return "let the service's user write there, or set TAILORBIRD_OBJECT_STORE"
    for words, advice in _ADVICE:
        if any(word in told for word in words):
            return advice
    return _REACH if NotFound.__name__ not in told else _ADVICE[1][1]
