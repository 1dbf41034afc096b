"""What a caller gets when a call fails: the google.rpc.Status, taken apart.

Each status code has a class of its own, so that a caller can catch what it can do something about.
They are named as the codes are, and are no relatives of the errors in `tailorbird.errors`, which
are the services' own: import them from `tailorbird.client`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from tailorbird.errors import TailorbirdError


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field of the request that is wrong, and why."""

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class QuotaViolation:
    """A limit that is reached: whose, which, and how."""

    subject: str
    quota: str
    description: str


class CallError(TailorbirdError):
    """A call failed.

    `code` is the gRPC status code; `reason` is UPPER_SNAKE and stable, or the code's name where the
    answer carries none; `violations` names the fields that are wrong, `quotas` the limits that are
    reached; `retry_after`, in seconds, is set where the service says when the same call may work.

    >>> error = CallError.from_status(status_pb2.Status(code=5, message="there is none"))
    >>> error
    NotFound('there is none')
    >>> print(error)
    NOT_FOUND (NOT_FOUND): there is none
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        reason: str = "",
        violations: tuple[FieldViolation, ...] = (),
        quotas: tuple[QuotaViolation, ...] = (),
        retry_after: float | None = None,
        metadata: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message, reason=reason or code.name)
        self.code = code
        self.violations = violations
        self.quotas = quotas
        self.retry_after = retry_after
        self.metadata = metadata or {}

    def __str__(self) -> str:
        return f"{self.code.name} ({self.reason}): {self.message}{self.hints}"

    @property
    def hints(self) -> str:
        """Which limits are reached and when the same call may work, to follow a message; or ""."""
        limits = "".join(f"; {quota.quota} of {quota.subject}" for quota in self.quotas)
        again = "" if self.retry_after is None else f"; try again after {self.retry_after:g} s"
        return limits + again

    @staticmethod
    def from_call(error: grpc.RpcError) -> CallError:
        """Return the error of a failed call, as a raw stub raises it, in the class of its code."""
        call = cast("grpc.Call", error)
        try:
            status = rpc_status.from_call(call)
        except (ValueError, DecodeError):
            # What stands between has put a code of its own above a service's, or cut it off.
            status = None
        if status is None:
            code = call.code()
            return _KINDS.get(code, CallError)(
                code, call.details() or "the call failed without a message"
            )
        return CallError.from_status(status)

    @staticmethod
    def from_status(status: status_pb2.Status) -> CallError:
        """Return the error a status speaks of, such as the one in a FAILED job, by its code."""
        info = error_details_pb2.ErrorInfo()
        request = error_details_pb2.BadRequest()
        quota = error_details_pb2.QuotaFailure()
        retry = error_details_pb2.RetryInfo()
        retry_after = None
        for detail in status.details:
            if detail.Unpack(retry):
                retry_after = retry.retry_delay.ToTimedelta().total_seconds()
            else:
                detail.Unpack(info) or detail.Unpack(request) or detail.Unpack(quota)
        code = _code(status.code)
        return _KINDS.get(code, CallError)(
            code,
            status.message,
            reason=info.reason,
            violations=tuple(
                FieldViolation(violation.field, violation.description)
                for violation in request.field_violations
            ),
            quotas=tuple(
                QuotaViolation(violation.subject, violation.quota_id, violation.description)
                for violation in quota.violations
            ),
            retry_after=retry_after,
            metadata=dict(info.metadata),
        )


class Cancelled(CallError):
    """The call was ended, here or by what stands between."""


class Unknown(CallError):
    """The call failed, and nothing is said of it."""


class InvalidArgument(CallError):
    """The request is wrong, whatever the state of the service; `violations` says where."""


class DeadlineExceeded(CallError):
    """The call's time was up before it was done."""


class NotFound(CallError):
    """There is no such thing, or it is not the caller's to know of."""


class AlreadyExists(CallError):
    """The name or request id is taken by something else."""


class PermissionDenied(CallError):
    """The caller is known, and may not do this."""


class ResourceExhausted(CallError):
    """A limit is reached, which `quotas` names; later may work."""


class FailedPrecondition(CallError):
    """The request is right, but not in the present state."""


class Aborted(CallError):
    """What was under way was ended from outside; it is not made again."""


class OutOfRange(CallError):
    """The request asks for what lies past an end."""


class Unimplemented(CallError):
    """The service has no such method: it is older, or another one."""


class Internal(CallError):
    """A defect of the service; `metadata` has the id that its log has."""


class Unavailable(CallError):
    """The service or what it needs is away; `retry_after` may say until when."""


class DataLoss(CallError):
    """Stored bytes are not what was written."""


class Unauthenticated(CallError):
    """The call carries no token, or one that is not known."""


_KINDS: dict[grpc.StatusCode, type[CallError]] = {
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.UNKNOWN: Unknown,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.ABORTED: Aborted,
    grpc.StatusCode.OUT_OF_RANGE: OutOfRange,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
    grpc.StatusCode.INTERNAL: Internal,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DATA_LOSS: DataLoss,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
}


def _code(number: int) -> grpc.StatusCode:
    for code in grpc.StatusCode:
        if code.value[0] == number:
            return code
    return grpc.StatusCode.UNKNOWN
