"""How much memory a worker takes."""

from __future__ import annotations

import os
from pathlib import Path

import torch

_STATM = Path("/proc/self/statm")


class WorkerMemory:
    """On a GPU, torch has one peak, which begins again when it is read; here each job has its own.

    Used by one thread.
    """

    def __init__(self) -> None:
        self._peaks: dict[str, int] = {}
        """Bytes: the highest peak that others have read since the job did."""

    def taken(self, job: str, device: torch.device) -> int | None:
        """Return the memory, in bytes, that the whole worker takes, whatever its jobs.

        On a GPU: the most that tensors took at once since the job asked last; since anybody did, if
        it never has. On a CPU: what is resident of the process now; None if that cannot be read.
        """
        if device.type == "cpu":
            return _resident()
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        for other, seen in self._peaks.items():
            self._peaks[other] = max(seen, peak)
        found = max(self._peaks.get(job, 0), peak)
        self._peaks[job] = 0
        return found

    def left(self, job: str) -> None:
        """Forget a job."""
        self._peaks.pop(job, None)


def _resident() -> int | None:
    try:
        pages = int(_STATM.read_text().split()[1])
    except OSError:
        # No file descriptor is left, say: no job ends for the sake of a figure.
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
