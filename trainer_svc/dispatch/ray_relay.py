"""`python -m trainer_svc.dispatch.ray_relay <fd>`: stands on this machine for a worker on another.

The only process of the service that imports Ray, one for each worker: a driver whose one actor, not
detached, ends with it. Commands come in by the inherited socket, reports go out by it; when the
other end closes, the actor is ended.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from queue import SimpleQueue
from typing import Any, BinaryIO, NoReturn
from urllib.parse import urlsplit

from tailorbird import __version__
from trainer_svc.dispatch.executor import WorkerLost
from trainer_svc.dispatch.ray_actor import EngineActor
from trainer_svc.dispatch.ray_order import RayCluster, RayOrder
from trainer_svc.protocol import Lost, encode

_KNOCK_SECONDS = 10.0
_CONNECT_SECONDS = 60.0
_END_SECONDS = 4.0
_LEAVE_SECONDS = 8.0
_CALLS = 8
"""That the actor answers at a time: there is one of each kind."""
_LOOKS = 6
"""How often the machine is asked for in the time that it may be silent."""
_NAMESPACE = "tailorbird"


def main(fd: int) -> None:
    """Have a worker on the cluster until it is lost, or nobody is there to work for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Ray has the actor's process look for modules where the driver's script lies.
    sys.argv[0] = sys.executable
    connection = socket.socket(fileno=fd)
    lines = connection.makefile("rb")
    first = lines.readline()
    if first:
        Relay(connection, lines, RayOrder.model_validate_json(first)).run()


class Relay:
    """Between the service's socket and one actor. A thread for each of the things that wait."""

    def __init__(self, connection: socket.socket, lines: BinaryIO, order: RayOrder) -> None:
        self._connection = connection
        self._lines = lines
        self._order = order
        self._commands: SimpleQueue[bytes] = SimpleQueue()
        self._ending = threading.Lock()
        self._telling = threading.Lock()
        self._ray: Any = None
        self._actor: Any = None

    def run(self) -> NoReturn:
        """Return never; the process ends."""
        threading.Thread(target=self._read, daemon=True).start()
        try:
            self._connect()
            self._place()
            threading.Thread(target=self._watched, args=(self._attend,), daemon=True).start()
            self._ray.get(self._actor.begin.remote(encode(self._order)))
            threading.Thread(target=self._watched, args=(self._send,), daemon=True).start()
        except WorkerLost as error:
            self._end(error)
        except Exception as error:
            self._gone(error)
        self._watched(self._receive)
        raise AssertionError("unreachable")

    def _read(self) -> None:
        for line in self._lines:
            self._commands.put(line)
        self._end(None)

    def _connect(self) -> None:
        cluster = self._order.cluster
        _knock(cluster)
        late = threading.Timer(_CONNECT_SECONDS, self._end, [_unreachable(cluster, "it is silent")])
        late.daemon = True
        late.start()
        import ray

        try:
            ray.init(
                address=cluster.address,
                namespace=_NAMESPACE,
                log_to_driver=False,
                logging_level="ERROR",
            )
        except Exception as error:
            raise _unreachable(cluster, f"{type(error).__name__}: {error}") from error
        late.cancel()
        self._ray = ray

    def _place(self) -> None:
        """Have an actor where there is room for it, of the release that this process has."""
        cluster = self._order.cluster
        asked = {
            "num_cpus": cluster.cpus,
            "num_gpus": cluster.gpus,
            "resources": dict(cluster.resources),
        }
        if cluster.memory is not None:
            asked["memory"] = cluster.memory
        kind = self._ray.remote(EngineActor)
        self._actor = kind.options(
            **asked, max_concurrency=_CALLS, max_restarts=0, max_task_retries=0
        ).remote()
        try:
            name, release = self._ray.get(self._actor.node.remote(), timeout=cluster.room_seconds)
        except self._ray.exceptions.GetTimeoutError as error:
            told = ", ".join(f"{value:g} {key}" for key, value in _told(asked).items())
            raise WorkerLost(
                f"no machine of the Ray cluster at {cluster.address} had room for a worker within "
                f"{cluster.room_seconds:g} s ({told}): see TAILORBIRD_RAY_WORKER_CPUS, "
                "TAILORBIRD_RAY_WORKER_GPUS, TAILORBIRD_RAY_WORKER_RESOURCES and "
                "TAILORBIRD_WORKER_MEMORY_GIB",
                reason="RAY_NO_ROOM",
            ) from error
        if release != __version__:
            raise WorkerLost(
                f"the machine {name} of the Ray cluster has Tailorbird {release}, and this is "
                f"{__version__}: both must be of one release",
                reason="RAY_OTHER_RELEASE",
            )
        sys.stderr.write(f"the worker is on the machine {name}\n")

    def _watched(self, work: Any) -> None:
        try:
            work()
        except Exception as error:
            self._gone(error)

    def _attend(self) -> NoReturn:
        silence = self._order.cluster.silence_seconds
        while True:
            self._ray.get(self._actor.attend.remote(), timeout=silence)
            time.sleep(silence / _LOOKS)

    def _send(self) -> NoReturn:
        while True:
            self._ray.get(self._actor.send.remote(self._commands.get()))

    def _receive(self) -> NoReturn:
        while True:
            lines, printed, lost = self._ray.get(self._actor.receive.remote())
            sys.stderr.write("".join(f"{line}\n" for line in printed))
            sys.stderr.flush()
            self._tell(b"".join(lines))
            if lost:
                self._end(lost)

    def _tell(self, lines: bytes) -> None:
        # Two threads that sent at once would break each other's lines.
        with self._telling:
            self._connection.sendall(lines)

    def _gone(self, error: Exception) -> NoReturn:
        """End with the actor, its machine, or the way to them."""
        # What breaks because this process leaves is no news.
        if not self._ending.locked():
            text = " ".join(str(error).split())
            sys.stderr.write(f"the worker's Ray actor is gone: {type(error).__name__}: {text}\n")
        self._end(WorkerLost("the worker's machine, or its Ray actor, is gone", from_outside=True))

    def _end(self, why: WorkerLost | bytes | None) -> NoReturn:
        """Tell the service, unless it is what left, and end the worker and this process."""
        self._ending.acquire()
        late = threading.Timer(_LEAVE_SECONDS, os._exit, [0])
        late.daemon = True
        late.start()
        try:
            if why is not None:
                self._tell(why if isinstance(why, bytes) else _line(why))
            if self._actor is not None:
                self._ray.get(self._actor.end.remote(), timeout=_END_SECONDS)
        except Exception as error:
            sys.stderr.write(f"the worker's end was not heard: {type(error).__name__}\n")
        try:
            if self._ray is not None:
                self._ray.shutdown()
        finally:
            sys.stderr.flush()
            os._exit(0)


def _knock(cluster: RayCluster) -> None:
    """Raise WorkerLost if nobody listens: Ray would try for long, and may end the process."""
    address = urlsplit(cluster.address if "://" in cluster.address else f"//{cluster.address}")
    try:
        socket.create_connection((address.hostname, address.port), _KNOCK_SECONDS).close()
    except OSError as error:
        raise _unreachable(cluster, error.strerror or str(error)) from error


def _unreachable(cluster: RayCluster, why: str) -> WorkerLost:
    return WorkerLost(
        f"the Ray cluster at {cluster.address} (TAILORBIRD_RAY_ADDRESS) cannot be used: {why}",
        reason="RAY_UNREACHABLE",
    )


def _told(asked: dict[str, Any]) -> dict[str, float]:
    names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "bytes of memory"}
    return {
        **{name: asked[key] for key, name in names.items() if asked.get(key)},
        **asked["resources"],
    }


def _line(error: WorkerLost) -> bytes:
    return encode(Lost(message=error.message, reason=error.reason, from_outside=error.from_outside))


if __name__ == "__main__":
    main(int(sys.argv[1]))
