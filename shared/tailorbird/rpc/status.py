"""The only map from errors to status codes, and back from a status to its reason."""

from __future__ import annotations

import uuid
from typing import cast

import grpc
import structlog
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from tailorbird import errors

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

_log = structlog.get_logger(__name__)


def to_status(error: BaseException) -> status_pb2.Status:
    """Return the status a caller gets for `error`.

    What is not in the map becomes INTERNAL with a correlation id and no text of its own; the text
    is logged beside the id.
    """
    for kind, code in _CODES:
        if isinstance(error, kind):
            return _status(code, error.message, *_details(error))
    correlation = uuid.uuid4().hex
    _log.error("unexpected error", correlation_id=correlation, exc_info=error)
    info = error_details_pb2.ErrorInfo(
        reason="INTERNAL", domain=DOMAIN, metadata={"correlation_id": correlation}
    )
    return _status(grpc.StatusCode.INTERNAL, f"internal error {correlation}", info)


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
    """Return the status of an error that ended a job and was stored: its code is ABORTED."""
    info = error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata)
    return _status(grpc.StatusCode.ABORTED, message, info)


def _details(error: errors.TailorbirdError) -> list[Message]:
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    ]
    if isinstance(error, errors.InvalidArgument):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=error.description, reason=error.reason
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, errors.ResourceExhausted | errors.Unavailable):
        delay = Duration()
        delay.FromNanoseconds(int(error.retry_after * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return details


def _status(code: grpc.StatusCode, message: str, *details: Message) -> status_pb2.Status:
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status
