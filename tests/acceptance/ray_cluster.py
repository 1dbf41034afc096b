"""A Ray cluster of real node processes on this machine, each of which can be killed."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

import psutil

_START = [
    sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats",
    "--node-ip-address=127.0.0.1", "--object-store-memory=80000000",
]  # fmt: skip
_QUIET: Mapping[str, str] = MappingProxyType({"RAY_USAGE_STATS_ENABLED": "0"})
_JOINED = b"Ray runtime started"


class Node:
    """One node: `ray start`, and all that it has started."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._root = psutil.Process(process.pid)
        self.process = process

    def processes(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return [self._root, *self._root.children(recursive=True)]
        return []

    def running(self, module: str) -> list[psutil.Process]:
        """Return its processes that run `module`."""
        found = []
        for process in self.processes():
            with suppress(psutil.Error):
                if module in process.cmdline():
                    found.append(process)
        return found

    def send(self, number: int) -> None:
        """Send all of its processes a signal."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def kill(self) -> None:
        """End it as a machine ends whose power is gone."""
        # None may see another one's end, and act on it.
        self.send(signal.SIGSTOP)
        self.send(signal.SIGKILL)
        self.process.wait()


class RayCluster:
    """A head, which runs no worker, and the nodes that were added to it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port, self._client_port = _free_ports(2)
        self.address = f"127.0.0.1:{self._port}"
        self.client_address = f"ray://127.0.0.1:{self._client_port}"
        self.nodes: list[Node] = []

    def begin(self) -> None:
        """Start the head, which was not there or was killed."""
        self._start(
            "--head", f"--port={self._port}", f"--ray-client-server-port={self._client_port}",
            "--num-cpus=0", "--include-dashboard=false", f"--temp-dir={self._folder}",
        )()  # fmt: skip

    def add_all(self, count: int, *, resources: str = "{}") -> list[Node]:
        """Start so many nodes, each of one CPU."""
        where = f"--address={self.address}"
        # One after the other: of two that look for free ports at once, one takes the other's.
        return [
            self._start(where, "--num-cpus=1", f"--resources={resources}")() for _ in range(count)
        ]

    def kill(self) -> None:
        """End all of it."""
        for node in self.nodes:
            node.kill()
        self.nodes.clear()

    def _start(self, *arguments: str) -> Callable[[], Node]:
        """Start a node; what is returned waits until it has joined."""
        read, write = os.pipe()
        process = subprocess.Popen(
            [*_START, *arguments], env={**os.environ, **_QUIET}, stdout=write, stderr=write
        )
        os.close(write)
        node = Node(process)
        self.nodes.append(node)

        def joined() -> Node:
            output = os.fdopen(read, "rb")
            said = list(itertools.takewhile(lambda line: _JOINED not in line, output))
            threading.Thread(target=_drain, args=(output,), daemon=True).start()
            assert process.poll() is None, b"".join(said).decode()
            return node

        return joined


@contextmanager
def ray_cluster() -> Iterator[RayCluster]:
    """Start a head, to which nodes can be added."""
    # Paths of sockets are short.
    folder = Path(tempfile.mkdtemp(prefix="tbr", dir="/tmp"))
    cluster = RayCluster(folder)
    try:
        cluster.begin()
        yield cluster
    finally:
        cluster.kill()
        shutil.rmtree(folder, ignore_errors=True)


def listening(pid: int, *, descendants: bool = True) -> set[int]:
    """Return the ports that a process listens on, or its descendants do."""
    process = psutil.Process(pid)
    family = [process, *(process.children(recursive=True) if descendants else [])]
    return {
        each.laddr.port
        for member in family
        for each in member.net_connections("tcp")
        if each.status == psutil.CONN_LISTEN
    }


def _drain(output: BinaryIO) -> None:
    with output:
        output.read()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        asked = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in asked:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in asked]
