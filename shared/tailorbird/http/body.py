"""A request's body, bounded while it is read: what is too large is never held."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any, NoReturn

from starlette.requests import Request

from tailorbird.errors import DeadlineExceeded, InvalidArgument

MAX_JSON_BYTES = 4 * 2**20
"""As much as gRPC takes in one message."""

_PATIENCE = 30.0
# What stands for half a character: it is no text, and no protobuf message holds it.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


async def body_chunks(
    request: Request, max_bytes: int, *, patience: float = _PATIENCE
) -> AsyncIterator[bytes]:
    """Yield the body as it comes, at most `max_bytes`.

    Raises InvalidArgument (BODY_TOO_LARGE), before anything is read where the head says so, and
    DeadlineExceeded (BODY_TOO_SLOW) if nothing of it comes for `patience` seconds.
    """
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told[:20]) > max_bytes:
        raise _too_large(max_bytes)
    size = 0
    chunks = request.stream().__aiter__()
    while True:
        try:
            async with asyncio.timeout(patience):
                chunk = await anext(chunks, b"")
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"nothing of the body came for {patience:g} s", reason="BODY_TOO_SLOW"
            ) from error
        if not chunk:
            return
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        yield chunk


async def read_json(request: Request, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Return the body, a JSON object.

    Raises InvalidArgument (BODY_TOO_LARGE, NOT_JSON_TYPE, MALFORMED_REQUEST), DeadlineExceeded.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # A page of another site may send a browser's other types here unasked.
        raise InvalidArgument(
            "content-type", f"{kind[:80]!r} is not application/json", reason="NOT_JSON_TYPE"
        )
    data = bytearray()
    async for chunk in body_chunks(request, max_bytes):
        data += chunk
    return _object(bytes(data))


def _object(data: bytes) -> dict[str, Any]:
    try:
        # Given bytes, json would guess UTF-16 too, and take half a surrogate pair as it is.
        found = json.loads(data.decode("utf-8-sig"), parse_constant=_refuse_constant)
        if _SURROGATE.search(data):
            json.dumps(found, ensure_ascii=False).encode()
    except RecursionError:
        raise _malformed("it nests too deep") from None
    except UnicodeEncodeError:
        raise _malformed("a string in it has half a surrogate pair") from None
    except ValueError as error:
        raise _malformed(f"it is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise _malformed(f"it is not a JSON object but a {type(found).__name__}")
    return found


def _malformed(problem: str) -> InvalidArgument:
    return InvalidArgument("body", problem, reason="MALFORMED_REQUEST")


def _too_large(max_bytes: int) -> InvalidArgument:
    return InvalidArgument(
        "body",
        f"it has more than {max_bytes} bytes, which is the most",
        reason="BODY_TOO_LARGE",
        limit=max_bytes,
    )


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")
