"""Tests in a network namespace with nothing but the loopback interface, and a PID namespace.

What such a test has started ends with it, however it ends. Ray listens on every address that it
finds, and on 127.0.0.1 alone where there is no other.
"""

from __future__ import annotations

import fcntl
import functools
import inspect
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

_P = ParamSpec("_P")

_INSIDE = "TAILORBIRD_TEST_OWN_NETWORK"
_SET_FLAGS = 0x8914
_UP = 0x1 | 0x40
_NAMESPACES = ("--net", "--pid", "--mount-proc", "--fork", "--kill-child")


def in_its_own_network(test: Callable[_P, None]) -> Callable[_P, None]:
    """Run a test in a pytest of its own, whose processes reach one another and nobody else."""

    @functools.wraps(test)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        if os.environ.get(_INSIDE):
            _loopback_up()
            test(*args, **kwargs)
            return
        node = f"{inspect.getsourcefile(test)}::{test.__name__}"
        namespace = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
        done = subprocess.run(
            [*namespace, *_NAMESPACES, sys.executable, "-m", "pytest", node, "-x", "-q",
             "-p", "no:cacheprovider", "-o", "addopts="],
            cwd=Path(__file__).parents[2], env={**os.environ, _INSIDE: "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        assert "1 passed" in done.stdout, done.stdout

    return run


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh14x", b"lo", _UP))
