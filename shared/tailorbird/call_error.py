"""What a caller gets when a call fails: the google.rpc.Status, taken apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import grpc
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

    @classmethod
    def from_call(cls, error: grpc.RpcError) -> CallError:
        """Return the error of a failed call."""
        call = cast("grpc.Call", error)
        status = rpc_status.from_call(call)
        if status is None:
            return cls(call.code(), call.details() or "the call failed without a message")
        return cls.from_status(status)

    @classmethod
    def from_status(cls, status: status_pb2.Status) -> CallError:
        """Return the error a status speaks of, such as the one in a FAILED job."""
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
        return cls(
            _code(status.code),
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


def _code(number: int) -> grpc.StatusCode:
    for code in grpc.StatusCode:
        if code.value[0] == number:
            return code
    return grpc.StatusCode.UNKNOWN
