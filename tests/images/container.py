"""A container without an engine: one image's file system, started as a cluster would start it."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.images.dockerfile import FOLDER, Dockerfile

BASE_MODEL = Path(__file__).parents[2] / "examples" / "demo_base"
SCRIPT = Path(__file__).with_name("container.sh")
START_SECONDS = 240.0
DIGEST = "sha256:" + "0" * 64


def skip_where_impossible() -> None:
    """Skip the test on a machine that cannot start such a container."""
    for tool in ("unshare", "nsenter", "setpriv", "apt-get", "dpkg"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} on this machine")
    if os.getuid() != 0:
        pytest.skip("takes root, to make namespaces and change the user")
    if subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], check=False).returncode:
        pytest.skip("this machine allows no namespaces")


def build(service: str, prefix: Path) -> None:
    """Run every step of the service's CPU image into `prefix`."""
    for step in Dockerfile(service).steps("cpu"):
        subprocess.run(
            [FOLDER / "build.sh", *step],
            env=os.environ
            | {
                "PREFIX": str(prefix),
                "BASE": f"this-machine@{DIGEST}",
                "PYTHON": str(Path(sys.base_prefix, "bin", "python3")),
            },
            check=True,
        )


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


class Container:
    """One service's image, running."""

    def __init__(
        self, service: str, built: Path, store: Path, environment: dict[str, str], log: Path
    ) -> None:
        self._image = Dockerfile(service)
        self._log = log
        self.port, self.metrics_port = free_ports(2)
        # A container's engine adds HOME, "/" for a user who is in no passwd.
        self._environment = (
            {"HOME": "/"}
            | self._image.env("cpu")
            | {
                "TAILORBIRD_BASE_MODEL": "/base-model",
                "TAILORBIRD_PORT": str(self.port),
                "TAILORBIRD_METRICS_PORT": str(self.metrics_port),
            }
            | environment
        )
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [
                    *"unshare --mount --pid --fork --kill-child --propagation private".split(),
                    SCRIPT,
                    built,
                    sys.base_prefix,
                    BASE_MODEL,
                    store,
                    "--",
                    *self._assignments,
                    *self._image.last("cpu", "ENTRYPOINT").command,
                ],
                cwd="/",
                env={"PATH": os.environ["PATH"]},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def init(self) -> int:
        """The container's process 1, by its number on the machine."""
        parent = self._process.pid
        (child,) = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return int(child)

    def processes(self) -> list[int]:
        """Every process in the container, by its number on the machine."""
        namespace = Path(f"/proc/{self.init}/ns/pid").readlink()
        return [pid for pid in _all_processes() if _namespace(pid) == namespace]

    def wait_until_ready(self) -> None:
        end = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < end:
            if self.answer("/readyz") == 200:
                return
            time.sleep(0.2)
        raise AssertionError(f"{self._image.path.name} did not start:\n{self.log[-6000:]}")

    def answer(self, path: str) -> int:
        """Status that the plain HTTP port answers with; 0 where nothing answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container, as `kubectl exec` would."""
        enter = f"nsenter --target {self.init} --mount --pid --root --wd=/".split()
        user = "setpriv --reuid 65532 --regid 65532 --clear-groups --bounding-set=-all".split()
        return subprocess.run(
            [*enter, *user, "--no-new-privs", "env", "-i", *self._assignments, *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def run_health(self) -> subprocess.CompletedProcess[str]:
        """Run the image's health command."""
        health = self._image.last("cpu", "HEALTHCHECK").text.partition("CMD ")[2]
        return self.run(*[word.strip('", ') for word in health.strip("[]").split()])

    def stop(self) -> int:
        """Send process 1 a SIGTERM; return what the container exits with."""
        os.kill(self.init, signal.SIGTERM)
        return self._process.wait(120)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(30)

    @property
    def _assignments(self) -> list[str]:
        return [f"{name}={value}" for name, value in self._environment.items()]


@contextmanager
def started(
    service: str, built: Path, store: Path, log: Path, **environment: str
) -> Iterator[Container]:
    """Start a container and end it."""
    container = Container(service, built, store, environment, log)
    try:
        container.wait_until_ready()
        yield container
    finally:
        container.close()


def _all_processes() -> list[int]:
    return [int(one.name) for one in Path("/proc").iterdir() if one.name.isdecimal()]


def _namespace(pid: int) -> Path | None:
    try:
        return Path(f"/proc/{pid}/ns/pid").readlink()
    except OSError:
        return None
