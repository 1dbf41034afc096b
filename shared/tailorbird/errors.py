"""The one exception tree.

TailorbirdError
├── InvalidArgument      the request is wrong, whatever the state of the service
│   ├── InvalidRecord    a line of a dataset is wrong
│   └── InvalidRecords   the same of all its lines that are
├── Unauthenticated      no known token
├── NotFound             no such thing, or not the caller's to know of
├── AlreadyExists        the name is taken by something else
├── FailedPrecondition   the request is right, the state is not
│   ├── AdapterRefused   a version fails a check and is not served
│   └── PatternTimedOut  a pattern for personal data takes too long on a text
├── Aborted              what was under way was ended from outside
│   └── Conflict         somebody else was faster
│       └── LeaseLost    the job is another holder's now
├── DeadlineExceeded     the caller's time was up before its turn came
├── ResourceExhausted    a limit is reached; later may work
├── Unavailable          something needed is down; the same call may work later
│   └── StoreUnavailable the object store did not answer
└── DataCorrupt          stored bytes are not what was written

Nothing here knows of gRPC: `tailorbird.rpc.status` maps these to status codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_MAX_REFUSAL_CHARS = 500
_MAX_FIRST_CHARS = 200


class TailorbirdError(Exception):
    """An error whose text may be shown to the caller.

    `reason` is UPPER_SNAKE and stable; `metadata` holds the values the message speaks of.
    """

    default_reason = "INTERNAL"

    def __init__(self, message: str, *, reason: str | None = None, **metadata: object) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.metadata = {key: str(value) for key, value in metadata.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        # To another process, whole: a subclass's __init__ has arguments of its own.
        return BaseException.__new__, (type(self), *self.args), self.__dict__


class InvalidArgument(TailorbirdError):
    """`field` of the request is wrong; the message says which value and which limit."""

    default_reason = "INVALID_ARGUMENT"

    def __init__(
        self, field: str, message: str, *, reason: str | None = None, **metadata: object
    ) -> None:
        super().__init__(f"{field}: {message}", reason=reason, field=field, **metadata)
        self.field = field
        self.description = message

    @property
    def violations(self) -> list[tuple[str, str]]:
        """Each field that is wrong, and why."""
        return [(self.field, self.description)]


class InvalidRecord(InvalidArgument):
    """Line `line` (from 1) of a dataset is not a record that can be trained on."""

    default_reason = "INVALID_RECORD"

    def __init__(self, line: int, message: str, *, reason: str | None = None) -> None:
        super().__init__("chunk", f"line {line}: {message}", reason=reason, line=line)
        self.line = line
        self.text = message


class InvalidRecords(InvalidArgument):
    """`count` of a dataset's `records` are not such; `errors`, at least one, are the first of them.

    Its reason is theirs if all have one, otherwise INVALID_RECORD. `file` is what the message says
    of the whole file, if anything.
    """

    default_reason = InvalidRecord.default_reason

    def __init__(
        self, errors: Sequence[InvalidRecord], count: int, records: int, file: str = ""
    ) -> None:
        reasons = {error.reason for error in errors}
        told = f", of which the first {len(errors)} are told" if count > len(errors) else ""
        first = errors[0].description
        if len(first) > _MAX_FIRST_CHARS:
            first = first[:_MAX_FIRST_CHARS] + "…"
        super().__init__(
            "chunk",
            f"{count} bad {'line' if count == 1 else 'lines'} of {records}{told}: {first}"
            f"{file and '; '}{file}",
            reason=reasons.pop() if len(reasons) == 1 else None,
            line=errors[0].line,
            bad_lines=count,
            records=records,
        )
        # No field of the request is wrong, but what the caller knows as the file.
        self.message = self.description
        self.args = (self.message,)
        self.errors = errors

    @property
    def violations(self) -> list[tuple[str, str]]:
        """Each line and what is wrong with it; a text that was said before names where."""
        lines: dict[str, int] = {}
        found = []
        for error in self.errors:
            said = lines.setdefault(error.text, error.line)
            text = error.text if said == error.line else f"as line {said}"
            found.append((f"line {error.line}", text))
        return found


class Unauthenticated(TailorbirdError):
    """The call carries no token, or one that is not known."""

    default_reason = "UNAUTHENTICATED"


class NotFound(TailorbirdError):
    """There is no such thing, or its tenant is not one the caller holds."""

    default_reason = "NOT_FOUND"

    def __init__(self, name: object, *, reason: str | None = None) -> None:
        super().__init__(f"{name} does not exist", reason=reason, name=name)


class AlreadyExists(TailorbirdError):
    """The name or request id is taken by something else."""

    default_reason = "ALREADY_EXISTS"


class FailedPrecondition(TailorbirdError):
    """The request is right, but not in the present state."""

    default_reason = "FAILED_PRECONDITION"


class AdapterRefused(FailedPrecondition):
    """A version fails a check of the gate, which `reason` names; it is not served.

    Never, unless `retryable`: then the check may pass later. Messages quote what a tenant wrote and
    are cut at 500 characters.
    """

    default_reason = "ADAPTER_REFUSED"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        retryable: bool = False,
        **metadata: object,
    ) -> None:
        super().__init__(message[:_MAX_REFUSAL_CHARS], reason=reason, **metadata)
        self.retryable = retryable


class PatternTimedOut(FailedPrecondition):
    """The pattern for personal data of `kind` did not end within `seconds` on one text."""

    default_reason = "PATTERN_TIMED_OUT"

    def __init__(self, kind: str, seconds: float) -> None:
        super().__init__(
            f"the pattern for {kind} did not end within {seconds:g} s on one text: it backtracks"
            " too much, and the operator should write it otherwise",
            kind=kind,
            seconds=f"{seconds:g}",
        )


class Aborted(TailorbirdError):
    """What was under way was ended from outside; whether it may be done again, the caller knows."""

    default_reason = "ABORTED"


class Conflict(Aborted):
    """Somebody else changed the same thing first."""

    default_reason = "CONFLICT"


class LeaseLost(Conflict):
    """The job has ended or is leased under a later epoch; the caller may change nothing."""

    default_reason = "LEASE_LOST"


class DeadlineExceeded(TailorbirdError):
    """The caller's deadline passed before what it asked for was done."""

    default_reason = "DEADLINE_EXCEEDED"


class ResourceExhausted(TailorbirdError):
    """A limit is reached; the same call may work after `retry_after` seconds."""

    default_reason = "RESOURCE_EXHAUSTED"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        retry_after: float = 1.0,
        **metadata: object,
    ) -> None:
        super().__init__(message, reason=reason, **metadata)
        self.retry_after = retry_after


class Unavailable(TailorbirdError):
    """Something needed is down; the same call may work after `retry_after` seconds."""

    default_reason = "UNAVAILABLE"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        retry_after: float = 1.0,
        **metadata: object,
    ) -> None:
        super().__init__(message, reason=reason, **metadata)
        self.retry_after = retry_after


class StoreUnavailable(Unavailable):
    """The object store did not answer as it should."""

    default_reason = "STORE_UNAVAILABLE"


class DataCorrupt(TailorbirdError):
    """Stored bytes are not what was written: a digest, a size or a format is wrong."""

    default_reason = "DATA_CORRUPT"
