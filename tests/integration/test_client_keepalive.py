"""A connection that stands still is found out, by either client."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tailorbird import channel, client
from tests.integration.blocking import blocking
from tests.integration.scripted_services import ADAPTER, Script


class Wire:
    """A way to the server on `port` on which nothing goes on once it is `cut`, and nothing ends."""

    def __init__(self, port: int) -> None:
        self.cut = threading.Event()
        self._port = port
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for one in (self._listener, *self._sockets):
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._port))
            self._sockets += [client, server]
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self._copy, args=pair, daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                if not self.cut.is_set():
                    target.sendall(data)
        except OSError:
            return


@pytest.fixture
def wire(port: int) -> Iterator[Wire]:
    wire = Wire(port)
    yield wire
    wire.close()


def pieces(address: str) -> Iterator[str]:
    with client.ServingClient(address) as serving:
        yield from serving.stream_text(ADAPTER, "hello", timeout=25)


def pieces_in_a_loop(address: str) -> Iterator[str]:
    with blocking(lambda: client.AsyncServingClient(address)) as serving:
        yield from serving.stream_text(ADAPTER, "hello", timeout=25)


@pytest.mark.parametrize("read", [pieces, pieces_in_a_loop])
def test_a_stream_whose_connection_stands_still_ends(
    wire: Wire,
    script: Script,
    monkeypatch: pytest.MonkeyPatch,
    read: Callable[[str], Iterator[str]],
) -> None:
    monkeypatch.setattr(channel, "KEEPALIVE_SECONDS", 0.5)
    monkeypatch.setattr(channel, "KEEPALIVE_TIMEOUT_SECONDS", 0.5)
    script.go_on.clear()
    text = read(wire.address)
    assert next(text) == "Good "
    wire.cut.set()
    with pytest.raises(client.Unavailable):
        next(text)
    script.go_on.set()
