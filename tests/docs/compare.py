"""Whether a command printed what the page shows, but for what differs from run to run.

Numbers, times, what the trainer calls a job, and white space differ; "…" stands for anything in a
line, and a line of it alone for any lines.
"""

from __future__ import annotations

import re

_NUMBERS = re.compile(r"\b[0-9a-f]{64}\b|-[0-9a-f]{8}\b|\d[\d.,:]*")
_ANY = "…"


def differences(shown: str, printed: str) -> str:
    """Return the first shown line that was not printed, in its place; "" if all were."""
    lines = [line for line in map(_plain, printed.splitlines()) if line]
    at, may_skip = 0, False
    for line in shown.splitlines():
        wanted = _plain(line)
        if not wanted:
            continue
        if wanted == _ANY:
            may_skip = True
            continue
        pattern = re.compile(".*".join(map(re.escape, wanted.split(_ANY))))
        while at < len(lines) and not pattern.fullmatch(lines[at]) and may_skip:
            at += 1
        if at == len(lines) or not pattern.fullmatch(lines[at]):
            there = lines[at] if at < len(lines) else "nothing more"
            return f"shown:   {line}\nprinted: {there}"
        at, may_skip = at + 1, False
    if at < len(lines) and not may_skip:
        return f"shown:   nothing more\nprinted: {lines[at]}"
    return ""


def _plain(line: str) -> str:
    """Return a line with each number as one sign and each run of white space as one blank."""
    return " ".join(_NUMBERS.sub("#", line).split())
