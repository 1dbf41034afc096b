"""Which calls are made again, and when.

A call that a closing server did not take (RFC 9113, 6.8) is made again soon, whichever it is: no
service has seen it. A call that says the same when it is made twice is made again where its service
is UNAVAILABLE: after the time that the answer's RetryInfo gives, or else a pause that doubles from
0.2 s, with some chance in each, within the call's own timeout. A generation and a change of routes
are not such calls, and ABORTED is never followed by another attempt: that call may have been the
cause.
"""

from __future__ import annotations

import random
import time

import grpc

from tailorbird.call_error import CallError

RETRIES = 3
"""Attempts after the first, unless a client says otherwise."""
_FIRST_PAUSE = 0.2
_LEAVE_SECONDS = 0.05
"""By then the channel has left the connection that closes, which a call at once may still get."""
_LONGEST_PAUSE = 10.0
"""Who is asked to wait longer is told so instead, in seconds."""
# What gRPC says of a call that a server's last word left out of those it took.
_NOT_TAKEN = "Stream removed (GOAWAY received"


class Deadline:
    """When a call must be done: `timeout` seconds from now; None: never."""

    def __init__(self, timeout: float | None) -> None:
        self._end = None if timeout is None else time.monotonic() + timeout

    def left(self) -> float | None:
        """Return the seconds that are left, at least 0."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def reached_in(self, seconds: float) -> bool:
        """Tell whether nothing is left after a pause of so many seconds."""
        left = self.left()
        return left is not None and left <= seconds


class Attempts:
    """The attempts at one call. With `again` it may be made `retries` times more."""

    def __init__(self, timeout: float | None, *, again: bool, retries: int = RETRIES) -> None:
        self.deadline = Deadline(timeout)
        self._left = retries if again else 0
        self._pause = _FIRST_PAUSE
        self._was_refused = False

    def pause(self, error: CallError) -> float | None:
        """Return the seconds after which to try again after `error`; None: do not."""
        if was_not_taken(error) and not self._was_refused:
            self._was_refused = True
            return None if self.deadline.reached_in(_LEAVE_SECONDS) else _LEAVE_SECONDS
        if error.code is not grpc.StatusCode.UNAVAILABLE or not self._left:
            return None
        self._left -= 1
        if error.retry_after is None:
            seconds = self._pause * random.uniform(0.5, 1.0)  # noqa: S311 - only spreads calls
            self._pause *= 2
        else:
            seconds = error.retry_after * random.uniform(1.0, 1.2)  # noqa: S311
        if seconds > _LONGEST_PAUSE or self.deadline.reached_in(seconds):
            return None
        return seconds


def was_not_taken(error: CallError) -> bool:
    """Tell whether the server closed before it took the call: no service has seen it."""
    return error.code is grpc.StatusCode.UNAVAILABLE and error.message.startswith(_NOT_TAKEN)
