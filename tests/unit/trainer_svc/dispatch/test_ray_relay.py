"""What passes between the service and an actor, without a cluster."""

from __future__ import annotations

import io
import socket
import threading
from pathlib import Path

from tests.unit.trainer_svc.dispatch.test_ray_actor import order
from trainer_svc.dispatch.ray_relay import Relay


def test_what_two_threads_say_is_never_mixed(tmp_path: Path) -> None:
    """A machine may be given up while reports of its worker are passed on."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        relay = Relay(theirs, io.BytesIO(), order(tmp_path))
        said = [letter * 2**20 + b"\n" for letter in (b"r", b"e")]
        threads = [threading.Thread(target=relay._tell, args=(line,)) for line in said]
        for thread in threads:
            thread.start()
        heard = b""
        while len(heard) < sum(map(len, said)):
            heard += ours.recv(2**16)
        for thread in threads:
            thread.join()
    assert sorted(heard.splitlines(keepends=True)) == sorted(said)
