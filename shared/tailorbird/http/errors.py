"""Errors as OpenAI's clients read them, from the status that gRPC would give: never a second map.

    {"error": {"message": ..., "type": ..., "param": ..., "code": ..., "reason": ...}}

`reason` is ours, as in gRPC's ErrorInfo; `code` is the same in lower case, or what OpenAI calls it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import grpc
from google.rpc import error_details_pb2, status_pb2

from tailorbird.rpc.status import to_status

_Code = grpc.StatusCode

_STATUSES = {
    _Code.INVALID_ARGUMENT: 400,
    _Code.UNAUTHENTICATED: 401,
    _Code.NOT_FOUND: 404,
    _Code.ALREADY_EXISTS: 409,
    _Code.FAILED_PRECONDITION: 400,
    _Code.ABORTED: 409,
    _Code.DEADLINE_EXCEEDED: 504,
    _Code.RESOURCE_EXHAUSTED: 429,
    _Code.UNAVAILABLE: 503,
    _Code.DATA_LOSS: 500,
    _Code.INTERNAL: 500,
}
"""As google/rpc/code.proto says."""

_NARROWER = {
    "METHOD_NOT_ALLOWED": 405,
    "BODY_TOO_SLOW": 408,
    "BODY_TOO_LARGE": 413,
    "DATASET_TOO_LARGE": 413,
    "NOT_JSON_TYPE": 415,
    "NOT_FORM_TYPE": 415,
}
"""Reasons for which HTTP has a status of its own."""

_TYPES = {401: "authentication_error", 429: "rate_limit_error"}
_CODES = {
    "UNAUTHENTICATED": "invalid_api_key",
    "PROMPT_TOO_LONG": "context_length_exceeded",
    "MAX_TOKENS_TOO_LARGE": "context_length_exceeded",
}
_RETRIED = frozenset({408, 429, 503})
_FIRST_SERVER_ERROR = 500
_BY_NUMBER = {code.value[0]: code for code in _Code}


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """One error: `status` is HTTP's, `body` the JSON, `headers` what says whether to try again."""

    status: int
    reason: str
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...]


def error_answer(error: BaseException) -> ErrorAnswer:
    """Return what a caller gets for `error`; what is not ours becomes 500 without its text."""
    status = to_status(error)
    info, field, retry_after = _details(status)
    http_status = _NARROWER.get(info.reason, _STATUSES[_BY_NUMBER[status.code]])
    # OpenAI's clients try 409 and every 5xx again by themselves; what cannot help is told here.
    retried = http_status in _RETRIED
    headers = [(b"x-should-retry", b"true" if retried else b"false")]
    if retry_after is not None:
        headers.append((b"retry-after", str(math.ceil(retry_after)).encode()))
        headers.append((b"retry-after-ms", str(math.ceil(retry_after * 1000)).encode()))
    if http_status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    told = {
        "message": status.message,
        "type": _type(http_status),
        "param": field,
        "code": _CODES.get(info.reason, info.reason.lower()),
        "reason": info.reason,
    }
    return ErrorAnswer(
        http_status, info.reason, json.dumps({"error": told}).encode(), tuple(headers)
    )


def _type(status: int) -> str:
    other = "server_error" if status >= _FIRST_SERVER_ERROR else "invalid_request_error"
    return _TYPES.get(status, other)


def _details(
    status: status_pb2.Status,
) -> tuple[error_details_pb2.ErrorInfo, str | None, float | None]:
    """Return the error's info, the field that is wrong, and seconds until another try."""
    info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    field: str | None = None
    seconds: float | None = None
    for detail in status.details:
        if detail.Unpack(request):
            field = request.field_violations[0].field
        elif detail.Unpack(retry):
            seconds = retry.retry_delay.ToNanoseconds() / 1e9
        else:
            detail.Unpack(info)
    return info, field, seconds
