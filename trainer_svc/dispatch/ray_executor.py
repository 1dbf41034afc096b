"""Workers as Ray actors, on the machines of a cluster.

This process does not import Ray: each worker has a child process here that does, `ray_relay`. Ray
takes over the signals of a process, and ends it when its head is away for long; a relay that ends
is one lost worker. What the relay says is what the worker says, line by line.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import structlog

from tailorbird.errors import FailedPrecondition
from trainer_svc.dispatch.child import spawn
from trainer_svc.dispatch.executor import Worker, WorkerLost
from trainer_svc.dispatch.process_worker import ProcessWorker
from trainer_svc.dispatch.ray_order import RayCluster, RayOrder
from trainer_svc.protocol import Ready, WorkerSettings

_log = structlog.get_logger(__name__)

_RELAY = "trainer_svc.dispatch.ray_relay"
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
}
_LOAD_SECONDS = 3600.0
_CLOSE_SECONDS = 15.0
"""More than a relay takes to end its worker, and to leave a cluster that does not answer."""


class RayExecutor:
    """Starts workers on a cluster.

    `settings` are theirs but for the paths, and `models` where each machine has the base, a folder
    or an id of the hub: both by the digest of the base. Raises FailedPrecondition
    (RAY_NOT_INSTALLED) without the extra `ray`.
    """

    def __init__(
        self,
        settings: Mapping[str, WorkerSettings],
        models: Mapping[str, str],
        cluster: RayCluster,
    ) -> None:
        if find_spec("ray") is None:
            raise FailedPrecondition(
                "workers run on Ray where TAILORBIRD_RAY_ADDRESS is set, and Ray is not installed: "
                "install tailorbird[ray], or leave it empty",
                reason="RAY_NOT_INSTALLED",
                setting="ray_address",
            )
        self._settings = settings
        self._models = models
        self._cluster = cluster
        self.ready: dict[str, Ready] = {}
        """What the newest worker with each base said once it was loaded."""

    async def start(self, index: int, base: str) -> Worker:
        """See Executor.

        WorkerLost also where the cluster is not there (RAY_UNREACHABLE), has no room for a worker
        (RAY_NO_ROOM), or is of another release (RAY_OTHER_RELEASE).
        """
        settings = self._settings[base]
        try:
            order = RayOrder(
                cluster=self._cluster,
                base_model=self._models[base],
                general_data=await asyncio.to_thread(_text, settings.general_data),
                settings=settings,
            )
            silence = _silence(settings.silence_seconds, self._cluster.silence_seconds)
            child = await spawn(_RELAY, environment=_ENVIRONMENT, silence=silence)
        except (OSError, UnicodeDecodeError) as error:
            raise WorkerLost(f"no worker can be asked for: {error}") from error
        worker = ProcessWorker(child, close_seconds=_CLOSE_SECONDS)
        seconds = self._cluster.room_seconds + _LOAD_SECONDS
        ready = self.ready[base] = await worker.begin(order, seconds)
        name, report = settings.base_model_name, ready.model_dump()
        _log.info("worker ready", index=index, relay=worker.pid, base=name, report=report)
        return worker


def _silence(worker: float | None, machine: float) -> float | None:
    """Return for how long a relay may be silent: it tells of a silent worker or machine itself."""
    return None if worker is None else worker + 2 * machine


def _text(path: str) -> str:
    return Path(path).read_text("utf-8") if path else ""
