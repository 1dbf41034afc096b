"""What a page says when a call has failed: the code, the reason, the field, and what to do."""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from tailorbird.client import CallError
from tailorbird.errors import (
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
    TailorbirdError,
)

_CODE = grpc.StatusCode
_STATUS = {
    _CODE.INVALID_ARGUMENT: 400,
    _CODE.OUT_OF_RANGE: 400,
    _CODE.UNAUTHENTICATED: 401,
    _CODE.PERMISSION_DENIED: 403,
    _CODE.NOT_FOUND: 404,
    _CODE.ABORTED: 409,
    _CODE.ALREADY_EXISTS: 409,
    _CODE.FAILED_PRECONDITION: 409,
    _CODE.RESOURCE_EXHAUSTED: 429,
    _CODE.CANCELLED: 503,
    _CODE.UNAVAILABLE: 503,
    _CODE.DEADLINE_EXCEEDED: 504,
}
"""By google.rpc.code's mapping to HTTP; but FAILED_PRECONDITION, whose 400 would blame the form."""
_TITLES = {
    400: "That is not right yet",
    401: "Sign in again",
    403: "Not allowed",
    404: "This does not exist",
    408: "The browser sends nothing any more",
    409: "That cannot be done now",
    413: "That is too large",
    429: "A limit is reached",
    503: "A service does not answer",
    504: "A service took too long",
}
_ADVICE = {
    400: "Go back, change what is named here, and send it again.",
    401: "The token is not known to the services any more: sign in with one that is.",
    404: "Check its name. It may have been deleted, or belong to a tenant that your token does not "
    "act for: nothing tells these apart.",
    408: "Nothing was stored. Send it again, where the connection holds.",
    409: "Nothing was changed. Look at how it stands now, then decide.",
    413: "Send less at once.",
    429: "Wait for what is under way to end, or ask the operator for a higher limit.",
    503: "It may be starting, or be down. Nothing is lost: try again in a few seconds, and tell "
    "the operator if it lasts.",
    504: "It may be busy. What you asked for may still have been done: look before you ask again.",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed call as a page shows it. `status` is HTTP's."""

    status: int
    code: str
    reason: str
    message: str
    fields: tuple[tuple[str, str], ...] = ()
    retry_after: float | None = None

    @property
    def title(self) -> str:
        """What happened, in a few words."""
        return _TITLES.get(self.status, "Something went wrong")

    @property
    def advice(self) -> str:
        """What to do about it."""
        return _ADVICE.get(self.status, "Tell the operator, with the words above.")

    @property
    def may_pass(self) -> bool:
        """Whether the same request may work later."""
        return self.status in (429, 503, 504)


def failure_of(error: TailorbirdError) -> Failure:
    """Return how a page shows an error."""
    if isinstance(error, CallError):
        limits = tuple((quota.quota, quota.description) for quota in error.quotas)
        fields = tuple((one.field, one.description) for one in error.violations)
        return Failure(
            _STATUS.get(error.code, 502),
            error.code.name,
            error.reason,
            error.message,
            fields + limits,
            error.retry_after,
        )
    if isinstance(error, InvalidArgument):
        fields = ((error.field, error.description),)
        return Failure(400, "INVALID_ARGUMENT", error.reason, error.message, fields)
    status = 500
    if isinstance(error, FailedPrecondition):
        status = 409
    elif isinstance(error, ResourceExhausted):
        status = 429
    return Failure(status, error.default_reason, error.reason, error.message)
