"""Whether a port is free, or whose it is."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from pathlib import Path

from tailorbird.address import authority
from tailorbird.doctor.finding import Finding, failed, ok
from tailorbird.holders import port_holder, told_process


def port(host: str, number: int, variable: str, module: str, data_dir: Path) -> Iterator[Finding]:
    """Tell whether `module`'s process can listen, or does already.

    `data_dir` is what tells that service from another of its kind.
    """
    bare = host.strip("[]")
    where, subject = authority(bare, number), f"port {number}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            bare, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            yield _taken(subject, number, variable, module, data_dir)
        elif error.errno == errno.EACCES:
            advice = f"choose a {variable} above 1023"
            yield failed(subject, f"{where} needs more rights", advice)
        else:
            told = error.strerror or str(error)
            yield failed(
                subject,
                f"{where} cannot be listened on: {told}",
                f"set TAILORBIRD_HOST to an address of this machine, or another {variable}",
            )
    else:
        yield ok(subject, f"{where} is free")


def _taken(subject: str, number: int, variable: str, module: str, data_dir: Path) -> Finding:
    holder = port_holder(number)
    told = told_process(holder)
    if holder is not None and _is_service(holder, module, data_dir):
        return ok(subject, f"the service itself listens: {told}")
    return failed(subject, f"taken by {told}", f"stop it, or choose another with {variable}")


def _is_service(pid: int, module: str, data_dir: Path) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        folder = Path(f"/proc/{pid}/cwd").resolve()
    except OSError:
        return False
    if module.encode() not in words:
        return False
    mark = b"TAILORBIRD_DATA_DIR="
    named = [one.removeprefix(mark) for one in variables if one.startswith(mark)]
    theirs = folder / (named[0].decode(errors="replace") if named else ".tailorbird")
    return theirs.resolve() == data_dir.resolve()
