"""The last that is said of a command that failed."""

from __future__ import annotations

import os
import sys
import traceback

from rich.text import Text

from tailorbird.call_error import CallError
from tailorbird.cli.exits import Exit, exit_of
from tailorbird.cli.output import describe, errors, plain
from tailorbird.errors import TailorbirdError

DEBUG = "TAILORBIRD_DEBUG"
"""Set to anything, failures are told with their tracebacks before."""

_MOST_CHARS = 500

_ADVICE = {
    "UNAVAILABLE": "is the service up, and are --trainer, --serving and the certificates right?",
    "UNAUTHENTICATED": "name a token: --token, TAILORBIRD_TOKEN, or a context with one",
}


def tell(error: Exception) -> Exit:
    """Print what failed to stderr, and return the status to exit with; see `exits`."""
    if os.environ.get(DEBUG):
        traceback.print_exception(error, file=sys.stderr)
    errors.print(Text(_said(error), style="red"), soft_wrap=True)
    if advice := _advice(error):
        errors.print(advice, soft_wrap=True)
    return exit_of(error)


def _advice(error: Exception) -> str:
    """Say what to do about an answer that no service gave: a service's own says so itself."""
    if not isinstance(error, CallError) or error.retry_after is not None:
        return ""
    return _ADVICE.get(error.code.name, "") if error.reason == error.code.name else ""


def _said(error: Exception) -> str:
    if isinstance(error, TailorbirdError):
        return describe(error)
    if isinstance(error, OSError):
        return f"error: {plain(str(error))}"
    text = plain(f"{type(error).__name__}: {error}"[:_MOST_CHARS])
    return f"error: {text} (a fault of tailorbird's own; {DEBUG}=1 shows where)"
