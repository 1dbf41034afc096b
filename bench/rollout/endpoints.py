"""The part of Kubernetes between a replica's readiness and the proxy's list of replicas."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from bench.rollout.pods import Pod
from bench.serving.processes import BenchFailed

_CHECK_SECONDS = 0.5


class Endpoints:
    """Asks every pod's /readyz in turn, as kubelets do, and tells who is ready when that changes.

    `route_to` hears the addresses. While nobody is ready it hears nothing: nginx takes no empty
    list, and requests to the last one fail and are counted.
    """

    def __init__(self, route_to: Callable[[Iterable[str]], None], period: float) -> None:
        self._route_to = route_to
        self._period = period
        self._pods: list[Pod] = []
        self._listed: list[str] = []
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="endpoints", daemon=True)

    def start(self) -> None:
        """Look from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join()

    def add(self, pod: Pod) -> None:
        """Look at `pod` too."""
        with self._changed:
            self._pods.append(pod)

    def remove(self, pod: Pod) -> None:
        """Forget `pod`, which has ended."""
        with self._changed:
            self._pods.remove(pod)

    def wait_until_listed(self, pod: Pod, limit_seconds: float) -> None:
        """Return when `pod` is ready and the proxy knows; BenchFailed."""
        deadline = time.monotonic() + limit_seconds
        with self._changed:
            while pod.address not in self._listed:
                pod.process.check()
                if self._error is not None:
                    raise BenchFailed(f"the endpoints: {self._error}")
                if time.monotonic() > deadline:
                    raise BenchFailed(
                        f"{pod.name} was not ready in {limit_seconds:.0f} s; {pod.process.tail()}"
                    )
                self._changed.wait(_CHECK_SECONDS)

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._period):
                self._look()
        except Exception as error:
            self._error = error

    def _look(self) -> None:
        with self._changed:
            pods = list(self._pods)
        ready = [pod.address for pod in pods if pod.is_ready()]
        if not ready or ready == self._listed:
            return
        self._route_to(ready)
        with self._changed:
            self._listed = ready
            self._changed.notify_all()
