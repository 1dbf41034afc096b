"""A server that closes does not take the calls that come: they are made again, once.

gRPC would do so by itself, and can leave such a call without an end.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import grpc
import pytest

from tailorbird.client import AsyncServingClient, CallError, ServingClient, chat_request
from tailorbird.errors import Unavailable
from tests.integration.blocking import blocking
from tests.integration.scripted_services import ADAPTER, Script

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, SETTINGS, GOAWAY = 1, 4, 7
ACK = 1


def frame(kind: int, flags: int = 0, payload: bytes = b"") -> bytes:
    """Return a frame of the connection's own, stream 0."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags, 0, 0, 0, 0]) + payload


class ClosingServer:
    """Takes no call of its first connections (`closing`); later ones reach the server on `port`.

    `connections` counts both.
    """

    def __init__(self, closing: int, port: int) -> None:
        self._closing, self._port = closing, port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            target = self._refuse if self.connections <= self._closing else self._pass
            threading.Thread(target=target, args=(client,), daemon=True).start()

    def _refuse(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as sent:
            client.sendall(frame(SETTINGS))
            sent.read(len(PREFACE))
            while head := sent.read(9):
                kind, flags = head[3], head[4]
                sent.read(int.from_bytes(head[:3]))
                if kind == SETTINGS and not flags & ACK:
                    client.sendall(frame(SETTINGS, ACK))
                elif kind == HEADERS:
                    # The last stream that was taken is 0, none, and there is no error.
                    client.sendall(frame(GOAWAY, payload=struct.pack(">II", 0, 0)))
                    # A socket closed with something unread resets the connection, and the frame
                    # may be lost with it.
                    client.shutdown(socket.SHUT_WR)
                    sent.read()
                    return

    def _pass(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self._port))
        back = threading.Thread(target=_copy, args=(server, client), daemon=True)
        back.start()
        _copy(client, server)
        back.join()
        client.close()
        server.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def closing(request: pytest.FixtureRequest, port: int) -> Iterator[ClosingServer]:
    server = ClosingServer(request.param, port)
    yield server
    server.close()


def answer(address: str) -> str:
    with ServingClient(address) as serving:
        return serving.generate(chat_request(ADAPTER, "hello")).text


def stream(address: str) -> str:
    with ServingClient(address) as serving:
        return "".join(serving.stream_text(ADAPTER, "hello"))


def answer_in_a_loop(address: str) -> str:
    with blocking(lambda: AsyncServingClient(address)) as serving:
        return str(serving.generate_text(ADAPTER, "hello"))


def stream_in_a_loop(address: str) -> str:
    with blocking(lambda: AsyncServingClient(address)) as serving:
        return "".join(serving.stream_text(ADAPTER, "hello"))


CALLS = pytest.mark.parametrize("call", [answer, stream, answer_in_a_loop, stream_in_a_loop])


@CALLS
@pytest.mark.parametrize("closing", [1], indirect=True)
def test_a_call_that_was_not_taken_is_made_again(
    closing: ClosingServer, script: Script, call: Callable[[str], str]
) -> None:
    assert call(closing.address) == "".join(script.text)
    assert len(script.requests) == 1


@CALLS
@pytest.mark.parametrize("closing", [2**20], indirect=True)
def test_it_is_made_again_once(closing: ClosingServer, call: Callable[[str], str]) -> None:
    with pytest.raises(CallError) as caught:
        call(closing.address)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert closing.connections == 2


@CALLS
def test_a_call_that_the_service_refuses_is_not_made_again(
    port: int, script: Script, call: Callable[[str], str]
) -> None:
    script.error = Unavailable("starting")
    with pytest.raises(CallError, match="starting"):
        call(f"127.0.0.1:{port}")
    assert len(script.requests) == 1
