"""Both services, started once by the command that the pages show, for all of them."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT

UP = "tailorbird up --base-model examples/demo_base"
"""How the pages start the services. Where one shows it, these are meant."""
_PORTS = {
    "trainer-port": "50051",
    "serving-port": "50052",
    "trainer-metrics-port": "9091",
    "serving-metrics-port": "9092",
    "trainer-http-port": "8081",
    "serving-http-port": "8082",
    "console-port": "8080",
}
_PROGRESS = re.compile(r"\w+ starts \(\d+ s\): ")


@dataclass(frozen=True, slots=True)
class Live:
    """The services that the pages talk to: what `up` printed; their ports by the usual ones.

    Without the lines of progress that a slow start prints where there is no terminal: a reader has
    one, on which they go again.
    """

    printed: str
    ports: dict[str, str]
    folder: Path

    def here(self, text: str) -> str:
        """Return a command or a program with the ports of these services for the usual ones."""
        return re.sub(r"(?<=:)\d{4,5}\b", lambda port: self.ports.get(port[0], port[0]), text)

    def as_shown(self, text: str) -> str:
        """Return an output with the usual ports and folders, as pages show them."""
        for usual, own in self.ports.items():
            text = text.replace(f":{own}", f":{usual}")
        return text.replace(str(self.folder), "…")


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Return the environment of a reader who has the project's commands in the path."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("TAILORBIRD_")}
    path = [str(Path(sys.executable).parent), own.get("PATH", "")]
    return {**own, "PATH": os.pathsep.join(path), "COLUMNS": "200"}


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Iterator[Live]:
    folder = clone(tmp_path_factory.mktemp("up"))
    own = free_ports(len(_PORTS))
    options = [f"--{name}={port}" for name, port in zip(_PORTS, own, strict=True)]
    with subprocess.Popen(
        [*shlex.split(UP), *options],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Ctrl-C"):
                break
        assert lines, "up printed nothing"
        assert lines[-1].startswith("Ctrl-C"), "".join(lines)
        ports = dict(zip(_PORTS.values(), map(str, own), strict=True))
        printed = "".join(line for line in lines if not _PROGRESS.match(line))
        yield Live(printed, ports, folder)
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(60) == 0


def clone(folder: Path) -> Path:
    """Make `folder` look like the repository's root; what is written there is nowhere else."""
    for name in ("examples", "bench", "deploy", "protos", "docs", "tests"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [one.getsockname()[1] for one in sockets]
