"""How a command ends: the exit statuses, for scripts, and what each failure comes to."""

from __future__ import annotations

from enum import IntEnum
from typing import Self

from tailorbird import errors


class Exit(IntEnum):
    """An exit status, and what it means. Other signals end a command as they end any process."""

    meaning: str

    OK = 0, "done"
    UNEXPECTED = (
        1,
        "a fault, of a service or of the command itself; or a file that cannot be read or written",
    )
    USAGE = 2, "the command line, or a file that it names, is wrong; nothing was asked"
    NOT_FOUND = 3, "there is no such thing, or it is another tenant's"
    REFUSED = 4, "the request or its data are wrong, or not possible in the present state"
    NOT_ALLOWED = 5, "no known token, or one that may not do this"
    CONFLICT = 6, "the name is taken, or somebody else was faster"
    EXHAUSTED = 7, "a quota or a limit is reached; later it may work"
    UNAVAILABLE = 8, "the service did not answer, or not in time; the same again may work"
    JOB_ENDED = 9, "the job or sweep that was watched ended FAILED or CANCELLED"
    INTERRUPTED = 130, "Ctrl-C; what was started on a service goes on"

    def __new__(cls, number: int, meaning: str) -> Self:
        """Keep the meaning beside the number."""
        made = int.__new__(cls, number)
        made._value_ = number
        made.meaning = meaning
        return made


_OF_CODES = {
    "INVALID_ARGUMENT": Exit.REFUSED,
    "FAILED_PRECONDITION": Exit.REFUSED,
    "OUT_OF_RANGE": Exit.REFUSED,
    "UNIMPLEMENTED": Exit.REFUSED,
    "NOT_FOUND": Exit.NOT_FOUND,
    "UNAUTHENTICATED": Exit.NOT_ALLOWED,
    "PERMISSION_DENIED": Exit.NOT_ALLOWED,
    "ALREADY_EXISTS": Exit.CONFLICT,
    "ABORTED": Exit.CONFLICT,
    "RESOURCE_EXHAUSTED": Exit.EXHAUSTED,
    "UNAVAILABLE": Exit.UNAVAILABLE,
    "DEADLINE_EXCEEDED": Exit.UNAVAILABLE,
    "CANCELLED": Exit.UNEXPECTED,
    "UNKNOWN": Exit.UNEXPECTED,
    "INTERNAL": Exit.UNEXPECTED,
    "DATA_LOSS": Exit.UNEXPECTED,
}

_OF_ERRORS: dict[type[errors.TailorbirdError], Exit] = {
    # Raised here, of what was typed; a service's own is a failed call.
    errors.InvalidArgument: Exit.USAGE,
    errors.InvalidRecord: Exit.REFUSED,
    errors.InvalidRecords: Exit.REFUSED,
    errors.FailedPrecondition: Exit.REFUSED,
    errors.NotFound: Exit.NOT_FOUND,
    errors.Unauthenticated: Exit.NOT_ALLOWED,
    errors.AlreadyExists: Exit.CONFLICT,
    errors.Aborted: Exit.CONFLICT,
    errors.ResourceExhausted: Exit.EXHAUSTED,
    errors.Unavailable: Exit.UNAVAILABLE,
    errors.DeadlineExceeded: Exit.UNAVAILABLE,
    errors.DataCorrupt: Exit.UNEXPECTED,
}


def exit_of(error: BaseException) -> Exit:
    """Return the status that a command which failed so ends with."""
    # A failed call's code; read by its name, for grpc takes long to import.
    code = getattr(getattr(error, "code", None), "name", None)
    if code in _OF_CODES:
        return _OF_CODES[code]
    for kind in type(error).__mro__:
        if kind in _OF_ERRORS:
            return _OF_ERRORS[kind]
    return Exit.UNEXPECTED
