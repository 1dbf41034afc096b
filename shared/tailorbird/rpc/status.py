"""The only map from errors to status codes, and back from a status to its reason.

A status travels in a call's trailers, once as text and once with its details, and gRPC gives
trailers about 8 kB: what an error says is cut here, however much of the request it repeats.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import cast

import grpc
import structlog
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from tailorbird import errors
from tailorbird.rpc.job_codes import code_of_job

DOMAIN = "tailorbird"

_CODES: tuple[tuple[type[errors.TailorbirdError], grpc.StatusCode], ...] = (
    (errors.InvalidArgument, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.Unauthenticated, grpc.StatusCode.UNAUTHENTICATED),
    (errors.NotFound, grpc.StatusCode.NOT_FOUND),
    (errors.AlreadyExists, grpc.StatusCode.ALREADY_EXISTS),
    (errors.FailedPrecondition, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.Aborted, grpc.StatusCode.ABORTED),
    (errors.DeadlineExceeded, grpc.StatusCode.DEADLINE_EXCEEDED),
    (errors.ResourceExhausted, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.Unavailable, grpc.StatusCode.UNAVAILABLE),
    (errors.DataCorrupt, grpc.StatusCode.DATA_LOSS),
)

# Lengths as they are on the wire, so that a status is at most 5 kB in all, whatever is in it; 6 kB
# where it tells of many lines.
_MESSAGE_BYTES = 1024
_REASON_BYTES = 64
_FIELD_BYTES = 256
_DESCRIPTION_BYTES = 512
_VIOLATIONS_BYTES = 4400
"""Of all violations together, where there are several: then the rest is short, and it is 7 kB."""
_VIOLATION_TAG_BYTES = 8
"""What a violation takes beside its texts, at most."""
_KEY_BYTES = 64
_VALUE_BYTES = 256
_METADATA_BYTES = 1024
_ELLIPSIS = "…"

_log = structlog.get_logger(__name__)


def to_status(error: BaseException) -> status_pb2.Status:
    """Return the status a caller gets for `error`.

    What is not in the map becomes INTERNAL with a correlation id and no text of its own; the text
    is logged beside the id.
    """
    if isinstance(error, errors.TailorbirdError) and (code := code_of(type(error))) is not None:
        return _status(code, error.message, *_details(error))
    correlation = uuid.uuid4().hex
    _log.error("unexpected error", correlation_id=correlation, exc_info=error)
    info = _error_info("INTERNAL", {"correlation_id": correlation})
    return _status(grpc.StatusCode.INTERNAL, f"internal error {correlation}", info)


def code_of(kind: type[errors.TailorbirdError]) -> grpc.StatusCode | None:
    """Return the status code of errors of this class, or None for what is not in the map."""
    return next((code for known, code in _CODES if issubclass(kind, known)), None)


def reason_of(error: grpc.RpcError) -> str:
    """Return the ErrorInfo reason of a failed call, or "" if it carries none."""
    status = rpc_status.from_call(cast("grpc.Call", error))
    return reason_of_status(status) if status is not None else ""


def reason_of_status(status: status_pb2.Status) -> str:
    """Return the ErrorInfo reason in `status`, or "" if it carries none."""
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        if detail.Unpack(info):
            return str(info.reason)
    return ""


def stored_status(reason: str, message: str, metadata: dict[str, str]) -> status_pb2.Status:
    """Return the status of an error that ended a job and was stored; see `job_codes`."""
    return _status(code_of_job(reason), message, _error_info(reason, metadata))


def _details(error: errors.TailorbirdError) -> list[Message]:
    details: list[Message] = [_error_info(error.reason, error.metadata)]
    if isinstance(error, errors.InvalidArgument):
        details.append(_bad_request(error))
    if isinstance(error, errors.ResourceExhausted | errors.Unavailable):
        delay = Duration()
        delay.FromNanoseconds(int(error.retry_after * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if {"quota", "subject"} <= error.metadata.keys():
        limit = error_details_pb2.QuotaFailure.Violation(
            subject=_cut(error.metadata["subject"], _VALUE_BYTES),
            quota_id=_cut(error.metadata["quota"], _VALUE_BYTES),
            description=_cut(error.message, _DESCRIPTION_BYTES),
        )
        details.append(error_details_pb2.QuotaFailure(violations=[limit]))
    return details


def _bad_request(error: errors.InvalidArgument) -> error_details_pb2.BadRequest:
    """Return all violations; the more there are, the shorter is what each says."""
    violations = [(_cut(field, _FIELD_BYTES), text) for field, text in error.violations]
    # Of several only the ErrorInfo has the reason.
    reason = _cut(error.reason, _REASON_BYTES) if len(violations) == 1 else ""
    room = _VIOLATIONS_BYTES - sum(
        len(field.encode()) + _VIOLATION_TAG_BYTES for field, _ in violations
    )
    texts = [_cut(text, _DESCRIPTION_BYTES) for _, text in violations]
    limit = _equal_share([len(text.encode()) for text in texts], room)
    return error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(
                field=field, description=_cut(text, limit), reason=reason
            )
            for (field, _), text in zip(violations, texts, strict=True)
        ]
    )


def _equal_share(lengths: Sequence[int], room: int) -> int:
    """Return the limit for each of `lengths` with which all of them have room."""
    for taken, length in enumerate(sorted(lengths)):
        share = room // (len(lengths) - taken)
        if length > share:
            return share
        room -= length
    return max(lengths)


def _error_info(reason: str, metadata: Mapping[str, str]) -> error_details_pb2.ErrorInfo:
    kept: dict[str, str] = {}
    room = _METADATA_BYTES
    for name, told in metadata.items():
        key, value = _cut(name, _KEY_BYTES), _cut(told, _VALUE_BYTES)
        room -= len(key.encode()) + len(value.encode())
        if room < 0:
            break
        kept[key] = value
    return error_details_pb2.ErrorInfo(
        reason=_cut(reason, _REASON_BYTES), domain=DOMAIN, metadata=kept
    )


def _status(code: grpc.StatusCode, message: str, *details: Message) -> status_pb2.Status:
    status = status_pb2.Status(code=code.value[0], message=_cut_message(message))
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _cut(text: str, limit: int) -> str:
    """Return `text` in at most `limit` bytes of UTF-8, whole characters, "…" where it was cut."""
    data = text.encode(errors="replace")
    if len(data) > limit:
        data = data[: limit - len(_ELLIPSIS.encode())]
        return data.decode(errors="ignore") + _ELLIPSIS
    # What came in JSON may hold half a surrogate pair, which no message can.
    return data.decode()


def _cut_message(text: str) -> str:
    """Cut a message by what it costs in the grpc-message header: 3 for what is not plain ASCII."""
    kept: list[str] = []
    room = _MESSAGE_BYTES - 3 * len(_ELLIPSIS.encode())
    # No more of it can be kept than this: a long text is not read to its end.
    text = _cut(text, 2 * _MESSAGE_BYTES)
    for character in text:
        plain = " " <= character <= "~" and character != "%"
        room -= 1 if plain else 3 * len(character.encode())
        if room < 0:
            return "".join(kept) + _ELLIPSIS
        kept.append(character)
    return text
