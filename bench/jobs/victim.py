"""A trainer that is killed and started again, at one address and on one folder."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from bench.jobs.growth import Sample
from bench.jobs.proc import Seen, descriptors, own_memory_kib, processes_of, strays
from bench.rollout.pods import Pod
from bench.serving.processes import BenchFailed, free_port

_ENGINE = "-m trainer_svc.engine "
_GONE_SECONDS = 10.0
"""What a process's trainer leaves behind for longer than that is leaked."""
_START_SECONDS = 120.0


class Victim:
    """`python -m trainer_svc` on a data folder of its own."""

    def __init__(self, name: str, work: Path, settings: Mapping[str, str]) -> None:
        self.name = name
        self._logs = work / "logs"
        self._logs.mkdir(exist_ok=True)
        data = work / name
        data.mkdir()
        self._setting = f"TAILORBIRD_DATA_DIR={data}"
        self._settings = {**settings, "DATA_DIR": str(data)}
        self._port = free_port()
        self._lives = 0
        self._stray_since: dict[Seen, float] = {}
        self.leaked: dict[Seen, str] = {}
        self.fell: list[str] = []
        """The last lines of its processes that ended by themselves."""
        self._start()

    def _start(self) -> None:
        self._lives += 1
        self._life = f"{self.name}.{self._lives}"
        log = self._logs / f"{self._life}.log"
        self.pod = Pod(self._life, "trainer_svc", self._settings, log, self._port)
        self._started = time.monotonic()
        self._ready: float | None = None

    @property
    def address(self) -> str:
        """Where it is called, whichever of its processes runs."""
        return self.pod.address

    @property
    def is_ready(self) -> bool:
        """Whether it was ready since it was started; one that has ended by itself starts again.

        BenchFailed if it takes too long.
        """
        if self.pod.process.has_ended:
            self.fell.append(self.pod.process.tail())
            self._start()
        if self._ready is None and self.pod.is_ready():
            self._ready = time.monotonic()
        if self._ready is None and time.monotonic() - self._started > _START_SECONDS:
            raise BenchFailed(
                f"{self._life} was not ready in {_START_SECONDS:.0f} s; {self.pod.process.tail()}"
            )
        return self._ready is not None

    def sample(self, began: float) -> Sample | None:
        """Look at the service's process; None before it is ready, or if it has just ended."""
        if self._ready is None:
            return None
        pid, now = self.pod.process.pid, time.monotonic()
        try:
            looked = own_memory_kib(pid), descriptors(pid)
        except OSError:
            return None
        return Sample(now - began, self._life, now - self._ready, *looked)

    def kill(self) -> None:
        """Kill the service alone, and start another."""
        self.restart(signal.SIGKILL)

    def restart(self, number: signal.Signals) -> None:
        """End the service by a signal, and start another."""
        self.pod.end(number)
        self._start()

    def kill_worker(self) -> bool:
        """Kill a worker of the service; False if it has none."""
        workers = [each for each in processes_of(self._setting) if _ENGINE in each.command]
        for worker in workers:
            if worker.parent == self.pod.process.pid:
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGKILL)
                    return True
        return False

    def look_for_strays(self) -> None:
        """Note the processes of ended services that have not ended in time."""
        now = time.monotonic()
        found = strays(processes_of(self._setting), self.pod.process.pid)
        self._stray_since = {each: self._stray_since.get(each, now) for each in found}
        for each, since in self._stray_since.items():
            if now - since > _GONE_SECONDS:
                self.leaked[each] = f"{self.name}: {each.command} [{each.pid}]"

    def end(self) -> int:
        """Stop it as a supervisor does; return its exit status."""
        return self.pod.end(signal.SIGTERM).status

    def stop(self) -> None:
        """Leave nothing of it behind, whatever has gone wrong."""
        self.pod.process.stop()
        for each in processes_of(self._setting):
            with suppress(ProcessLookupError):
                os.kill(each.pid, signal.SIGKILL)

    def left(self) -> list[Seen]:
        """Return its processes that still run."""
        return processes_of(self._setting)
