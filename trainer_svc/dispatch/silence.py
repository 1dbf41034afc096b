"""Who says nothing any more, by time in which this process itself could have heard it."""

from __future__ import annotations

from asyncio import sleep
from collections.abc import Callable
from pathlib import Path
from time import monotonic

_LOOKS = 12
_PROC = Path("/proc")


async def until_silent(seconds: float, sign: Callable[[], object]) -> None:
    """Return when `sign` has given the same for so many seconds; None is no sign to wait for.

    It is looked at twelve times in them. A look that comes late shows that this process stood
    still, or was busy, and has yet to read what was said meanwhile: all counts anew from there.
    """
    pause = seconds / _LOOKS
    still, last = 0, sign()
    while still < _LOOKS:
        began = monotonic()
        await sleep(pause)
        late = monotonic() - began > 2 * pause
        now = sign()
        still = 0 if late or now is None or now != last else still + 1
        last = now


def is_stopped(pid: int, proc: Path = _PROC) -> bool:
    """Tell whether somebody has stopped a process: a signal, or a debugger."""
    try:
        # Its name, in parentheses, may have any.
        state = (proc / str(pid) / "stat").read_text().rpartition(") ")[2]
    except OSError:
        return False
    return state[:1] in {"T", "t"}
