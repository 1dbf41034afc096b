"""A caller that watches a job while its trainer goes and comes back."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.serving.processes import BenchFailed, Process
from tailorbird.client import CallError, TrainerClient
from tailorbird.tuning.v1 import job_pb2

_CHECK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Seen:
    """One event, and when it came, in seconds on the machine's monotonic clock."""

    at: float
    event: job_pb2.JobEvent


class Watcher:
    """`TrainerClient.watch_job` in a thread, from the job's first event to its last."""

    def __init__(self, address: str, token: str, job: str) -> None:
        self.seen: list[Seen] = []
        self.error = ""
        self._ended = False
        self._changed = threading.Condition()
        self._client = TrainerClient(address, token)
        self._thread = threading.Thread(target=self._watch, args=(job,), daemon=True)
        self._thread.start()

    def wait_for(
        self,
        wanted: Callable[[Sequence[Seen]], bool],
        what: str,
        limit_seconds: float,
        process: Process | None = None,
    ) -> None:
        """Return when `wanted` holds of what was seen; BenchFailed if it never will."""
        deadline = time.monotonic() + limit_seconds
        with self._changed:
            while not wanted(self.seen):
                if process is not None:
                    process.check()
                if self._ended or time.monotonic() > deadline:
                    why = self.error or ("the watch ended" if self._ended else "the time was up")
                    raise BenchFailed(f"the watcher has not seen {what}: {why}")
                self._changed.wait(_CHECK_SECONDS)

    def wait_until_ended(self, limit_seconds: float, process: Process) -> None:
        """Return when the watch has come to its end, or failed; BenchFailed."""
        self.wait_for(lambda _: self._ended, "its end", limit_seconds, process)

    def close(self) -> None:
        """End the watch."""
        self._client.close()
        self._thread.join()

    def _watch(self, job: str) -> None:
        try:
            for event in self._client.watch_job(job):
                with self._changed:
                    self.seen.append(Seen(time.monotonic(), event))
                    self._changed.notify_all()
        except (CallError, ValueError) as error:
            self.error = str(error)
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def gaps_and_repeats(sequences: Sequence[int]) -> tuple[int, int]:
    """Return how many sequences after the first event are missing, and how many came again."""
    repeats = len(sequences) - len(set(sequences))
    late = sum(after < before for before, after in itertools.pairwise(sequences))
    missing = max(sequences, default=0) - len(set(sequences))
    # Out of its turn is as wrong as twice.
    return missing, max(repeats, late)
