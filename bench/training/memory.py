"""Resident memory of a process, from /proc. MiB."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def resident_mib(pid: int | str = "self") -> float:
    """Return what it holds now."""
    return _field(pid, "VmRSS")


def peak_mib(pid: int | str = "self") -> float:
    """Return the most it held since it started, or since `forget_peak`."""
    return _field(pid, "VmHWM")


def forget_peak() -> None:
    """Let this process's peak begin anew, where the system lets it (proc(5), clear_refs)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _field(pid: int | str, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc/{pid}/status has no {name}")
