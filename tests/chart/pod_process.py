"""A container of a rendered pod as a process here: its variables, its folders, nothing else.

The pod's paths become folders of the test, and its address becomes the loopback one.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from tests.chart.environment import Secrets, environment
from tests.chart.helm import Rendered
from tests.chart.pods import Pod

START_SECONDS = 240.0
_REPOSITORY = Path(__file__).parents[2]
# What a machine needs to run Python at all, and the tests to leave its cores to others.
_OF_THE_MACHINE = {
    "PATH": os.environ["PATH"],
    "PYTHONPATH": os.pathsep.join([str(_REPOSITORY / "shared"), str(_REPOSITORY)]),
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def mapped(variables: Mapping[str, str], pod: Pod, root: Path) -> dict[str, str]:
    """Return the variables with each path that the pod mounts moved below `root`."""
    mounts = {each["mountPath"] for each in pod.service.get("volumeMounts") or []} or {"/nowhere"}
    paths = re.compile(rf"(^|file://)({'|'.join(map(re.escape, mounts))})(?=/|$)")
    moved = {k: paths.sub(rf"\g<1>{root}\g<2>", v) for k, v in variables.items()}
    return moved | {"TAILORBIRD_HOST": "127.0.0.1"}


def make_folders(pod: Pod, root: Path, files: Mapping[str, Mapping[str, bytes]]) -> None:
    """Make a folder for each mount; `files` has what lies in the mounted Secrets, by Secret."""
    for mount in pod.service.get("volumeMounts") or []:
        folder = root / mount["mountPath"].lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        volume = pod.volumes[mount["name"]]
        for item in (volume.get("secret") or {}).get("items") or []:
            secret = files[volume["secret"]["secretName"]]
            (folder / item["path"]).write_bytes(secret[item["key"]])


class PodProcess:
    """A container's process, from its start until it is closed."""

    def __init__(
        self,
        rendered: Rendered,
        pod: Pod,
        root: Path,
        command: Sequence[str],
        secrets: Secrets | None = None,
    ) -> None:
        self.variables = mapped(environment(rendered, pod, secrets=secrets or {}), pod, root)
        self.lines: list[str] = []
        self._ready = threading.Event()
        # The data directory has to exist, the working directory must not matter.
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=_OF_THE_MACHINE | self.variables,
            cwd=root,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_until_ready(self) -> None:
        """Wait for the line that says so."""
        if not self._ready.wait(START_SECONDS) or self.process.poll() is not None:
            raise AssertionError("it did not start:\n" + "".join(self.lines)[-4000:])

    def listening(self) -> set[int]:
        """Return the ports that the process itself listens on."""
        connections = psutil.Process(self.process.pid).net_connections("inet")
        return {each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN}

    def wait(self, seconds: float = 120) -> int:
        """Wait for the end by itself."""
        status = self.process.wait(seconds)
        self._reader.join(seconds)
        return status

    def close(self) -> int:
        """Stop it as the kubelet does, and return its exit status."""
        self.process.terminate()
        try:
            return self.wait(60)
        finally:
            self.process.kill()
            self._reader.join(60)
            assert self.process.stderr is not None
            self.process.stderr.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if '"event": "serving"' in line or '"event": "trainer ready"' in line:
                self._ready.set()
        self._ready.set()
