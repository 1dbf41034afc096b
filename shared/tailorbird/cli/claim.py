"""A data directory and its ports for one `up` alone. What a killed one has left is ended first."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from tailorbird.address import authority
from tailorbird.cli.service_process import Plan
from tailorbird.errors import FailedPrecondition
from tailorbird.holders import lock_holder, port_holder, told_process

_FILE = "up.lock"
# Each service's own lock, in its folder of the data directory.
_LOCKS = {"trainer": "trainer/trainer.lock", "serving": "serving/serving/lock"}
# What services have to end by themselves: calls in flight, and a worker's checkpoint.
_GRACE = 35.0

Say = Callable[[str], None]


@contextmanager
def claimed(plan: Plan, say: Say, grace: float = _GRACE) -> Iterator[Claim]:
    """Hold the data directory, once nobody else uses it or the ports.

    Services that an `up` of this directory left when it was killed are waited for, `grace` seconds,
    and then killed; `say` hears of it. Raises FailedPrecondition: UP_ALREADY_RUNNING,
    DATA_DIR_LOCKED or PORT_TAKEN.
    """
    with (plan.data_dir / _FILE).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _already_running(plan, file) from error
        claim = Claim(plan, file)
        claim.end_orphans(say, grace)
        _check_locks(plan)
        _check_ports(plan)
        claim.keep()
        try:
            yield claim
        finally:
            claim.give_up()


class Claim:
    """The file that this process holds; it tells the next `up` which services are ours."""

    def __init__(self, plan: Plan, file: TextIO) -> None:
        self._plan = plan
        self._file = file
        self._services: dict[str, int] = {}

    def started(self, name: str, pid: int) -> None:
        """Note that a service's process was started."""
        self._services[name] = pid
        self.keep()

    def keep(self) -> None:
        """Write down who holds the directory."""
        self._write(json.dumps({"pid": os.getpid(), "boot": _boot(), "services": self._services}))

    def give_up(self) -> None:
        """Say that nothing is left running."""
        self._write("")

    def end_orphans(self, say: Say, grace: float) -> None:
        """End the services that the last holder has not ended."""
        kept = _read(self._file)
        if kept.get("boot") != _boot():
            return
        for name, leader in dict(kept.get("services", {})).items():
            mark = f"TAILORBIRD_DATA_DIR={self._plan.folder(name)}"
            _end_session(int(leader), mark.encode(), say, name, grace)

    def _write(self, text: str) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._file.write(text)
        self._file.flush()


def _read(file: TextIO) -> dict[str, Any]:
    file.seek(0)
    try:
        kept = json.loads(file.read())
    except ValueError:
        return {}
    return kept if isinstance(kept, dict) else {}


def _already_running(plan: Plan, file: TextIO) -> FailedPrecondition:
    pid = _read(file).get("pid")
    return FailedPrecondition(
        f"an `up` runs on the data directory {plan.data_dir.resolve()} already: "
        f"{told_process(pid if isinstance(pid, int) else lock_holder(plan.data_dir / _FILE))}. Use "
        "it, or stop it (Ctrl-C where it runs); or give this one a --data-dir and ports of its own",
        reason="UP_ALREADY_RUNNING",
    )


def _check_locks(plan: Plan) -> None:
    for name, lock in _LOCKS.items():
        path = plan.data_dir.resolve() / lock
        with suppress(FileNotFoundError), path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise FailedPrecondition(
                    f"the {name}'s folder {path.parent} is used by "
                    f"{told_process(lock_holder(path))}: stop it, or give another --data-dir",
                    reason="DATA_DIR_LOCKED",
                ) from error


def _check_ports(plan: Plan) -> None:
    with ExitStack() as stack:
        taken: dict[int, str] = {}
        for part in plan.parts:
            for option, port in part.ports:
                if other := taken.get(port):
                    raise FailedPrecondition(
                        f"{other} and {option} are both {port}: each needs its own",
                        reason="PORT_TAKEN",
                    )
                taken[port] = option
                _listen(part.host, port, option, stack)


def _listen(host: str, port: int, option: str, stack: ExitStack) -> None:
    """Listen on the port, as long as `stack` is open, with a server's own options."""
    bare = host.strip("[]")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            bare, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = stack.enter_context(socket.socket(family, kind, protocol))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
    except OSError as error:
        where = authority(bare, port)
        if error.errno == errno.EADDRINUSE:
            problem = (
                f"port {port} is taken by {told_process(port_holder(port))}: stop "
                f"it, or choose another with {option}"
            )
        elif error.errno == errno.EACCES:
            problem = f"{where} needs more rights: choose a {option} above 1023"
        else:
            problem = f"{where} cannot be listened on: {error.strerror} (--host, {option})"
        raise FailedPrecondition(problem, reason="PORT_TAKEN") from error


def _end_session(leader: int, mark: bytes, say: Say, name: str, grace: float) -> None:
    """End what is left of the session that `leader` began, if `mark` is in its environment."""
    with ExitStack() as stack:
        handles = {}
        for pid in _members(leader):
            with suppress(ProcessLookupError):
                handle = os.pidfd_open(pid)
                stack.callback(os.close, handle)
                # Looked at after it was opened: the number is this process's and nobody else's.
                if mark in _environment(pid):
                    handles[handle] = pid
        if not handles:
            return
        say(
            f"an `up` that was killed has left its {name} ({told_process(min(handles.values()))}): "
            f"waiting for its end, {grace:.0f} s at most"
        )
        for handle, pid in handles.items():
            # The leader ends its children itself, in order; without one they are told.
            if pid == leader or leader not in handles.values():
                _send(handle, signal.SIGTERM)
        left = _until_ended(set(handles), time.monotonic() + grace)
        if left:
            say(f"{name} has not ended by itself: killed")
        for handle in left:
            _send(handle, signal.SIGKILL)
        _until_ended(left, time.monotonic() + grace)


def _until_ended(handles: set[int], deadline: float) -> set[int]:
    """Wait for their end until `deadline` (monotonic); return those that live on."""
    left = set(handles)
    while left and time.monotonic() < deadline:
        ended, _, _ = select.select(left, [], [], max(0.0, deadline - time.monotonic()))
        left -= set(ended)
    return left


def _send(handle: int, number: int) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(handle, number)


def _members(session: int) -> list[int]:
    """Return the processes of a session that have not ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # pid (name, which may hold anything) state ppid pgrp session …
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] not in "ZX":
                found.append(int(folder.name))
    return found


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _boot() -> str:
    """Return what tells this boot of the machine from others: numbers of processes begin anew."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
