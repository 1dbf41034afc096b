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
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

import psutil

_START = [
    sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats",
    "--node-ip-address=127.0.0.1", "--object-store-memory=80000000",
]  # fmt: skip


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
    """A head, which runs no worker, and the nodes that were added."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._folder = Path(tempfile.mkdtemp(prefix="tbr", dir="/tmp"))  # sockets' paths are short
        stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
        port, client_port = _free_port(), _free_port()
        self.address = f"127.0.0.1:{port}"
        self.client_address = f"ray://127.0.0.1:{client_port}"
        self.head = self._node(
            "--head", f"--port={port}", f"--ray-client-server-port={client_port}",
            "--num-cpus=0", "--include-dashboard=false", f"--temp-dir={self._folder}",
        )  # fmt: skip

    def add(self, *, cpus: int = 1, resources: str = "{}") -> Node:
        return self._node(
            f"--address={self.address}", f"--num-cpus={cpus}", f"--resources={resources}"
        )

    def _node(self, *arguments: str) -> Node:
        read, write = os.pipe()
        output = self._stack.enter_context(os.fdopen(read, "rb"))
        process = subprocess.Popen(
            [*_START, *arguments], env={**os.environ, **_QUIET}, stdout=write, stderr=write
        )
        os.close(write)
        node = Node(process)
        self._stack.callback(node.kill)
        said = list(itertools.takewhile(lambda line: b"Ray runtime started" not in line, output))
        assert process.poll() is None, b"".join(said).decode()
        threading.Thread(target=output.read, daemon=True).start()
        return node


_QUIET: Mapping[str, str] = MappingProxyType({"RAY_USAGE_STATS_ENABLED": "0"})


@contextmanager
def ray_cluster() -> Iterator[RayCluster]:
    with ExitStack() as stack:
        yield RayCluster(stack)


def _free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port: int = asked.getsockname()[1]
        return port
