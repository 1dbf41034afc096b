"""A service's process as a pod is: started once, at its own address, asked if it is ready."""

from __future__ import annotations

import http.client
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.serving.environment import common_environment
from bench.serving.processes import BenchFailed, Process, free_port
from bench.serving.servers import HOST

GRACE_SECONDS = 60.0
"""From SIGTERM to the end of the process: a pod's terminationGracePeriodSeconds."""
_START_SECONDS = 300.0
_POLL_SECONDS = 0.1
# Two engines on two cores have one each, as pods with a CPU limit have.
_ONE_CORE = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


@dataclass(frozen=True, slots=True)
class Ended:
    """How a pod ended."""

    status: int
    """Its exit status; below 0 the signal that ended it."""
    seconds: float
    """From the signal to its end."""


class Pod:
    """`python -m MODULE` with `settings`, which are named without their prefix."""

    def __init__(
        self, name: str, module: str, settings: Mapping[str, str], log: Path, port: int = 0
    ) -> None:
        self.name = name
        self.address = f"{HOST}:{port or free_port()}"
        self._health_port = free_port()
        told = {
            **settings,
            "HOST": HOST,
            "PORT": self.address.rpartition(":")[2],
            "METRICS_PORT": str(self._health_port),
            "LOG_FORMAT": "json",
        }
        environment = {
            **common_environment(),
            **_ONE_CORE,
            **{f"TAILORBIRD_{key}": value for key, value in told.items()},
        }
        self.process = Process(name, ["-m", module], environment, log)

    def is_ready(self, limit_seconds: float = 1.0) -> bool:
        """Ask /readyz, as a kubelet does."""
        connection = http.client.HTTPConnection(HOST, self._health_port, timeout=limit_seconds)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def wait_until_ready(self) -> None:
        """Return when it takes calls; BenchFailed if it ends or takes too long."""
        deadline = time.monotonic() + _START_SECONDS
        while not self.is_ready():
            self.process.check()
            if time.monotonic() > deadline:
                raise BenchFailed(
                    f"{self.name} was not ready in {_START_SECONDS:.0f} s; {self.process.tail()}"
                )
            time.sleep(_POLL_SECONDS)

    def end(self, number: signal.Signals) -> Ended:
        """Send it a signal and wait for its end; one that outlives its grace is killed."""
        began = time.monotonic()
        self.process.send_signal(number)
        try:
            status = self.process.status(GRACE_SECONDS)
        except BenchFailed:
            self.process.send_signal(signal.SIGKILL)
            status = self.process.status(GRACE_SECONDS)
        return Ended(status, time.monotonic() - began)
