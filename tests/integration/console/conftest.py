"""The console over real HTTP, before scripted services on a real socket."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import pytest
import uvicorn

from tailorbird.console.app import console
from tailorbird.console.config import Config
from tailorbird.console.identity import Identity
from tests.integration.console.world import World, serve

OWN = {"Sec-Fetch-Site": "same-origin"}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    text: str


@dataclass
class Site:
    """A console, and a browser's part of HTTP: `cookie` goes with every request."""

    port: int
    config: Config
    cookie: str = ""
    answers: list[Answer] = field(default_factory=list)

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, None, headers)

    def post(self, path: str, fields: Any = (), headers: dict[str, str] | None = None) -> Answer:
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.ask("POST", path, urlencode(fields).encode(), {**kind, **(headers or OWN)})

    def ask(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            cookie = {"Cookie": self.cookie} if self.cookie else {}
            connection.request(method, path, body, {**cookie, **headers})
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            answer = Answer(response.status, found, response.read().decode())
        finally:
            connection.close()
        self.answers.append(answer)
        return answer

    def sign_in(self, token: str, tenant: str = "acme") -> Answer:
        answer = self.post("/sign-in", {"tenant": tenant, "token": token})
        self.cookie = answer.headers.get("set-cookie", "").partition(";")[0]
        return answer

    def who(self) -> Identity | None:
        return Identity.of(self.cookie, self.config)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def services(world: World) -> Iterator[str]:
    server, port = serve(world)
    yield f"127.0.0.1:{port}"
    world.more.set()
    world.go_on.set()
    server.stop(None).wait()


Start = Callable[..., Site]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a console, which is stopped when the test ends."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(config: Config, **more: Any) -> Site:
        listening = socket.create_server(("127.0.0.1", 0))
        settings = uvicorn.Config(
            console(config, **more),
            log_config=None,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=1,
            access_log=False,
        )
        server = uvicorn.Server(settings)
        # Its signal handlers are for a process's main thread.
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        running.append((server, thread))
        return Site(listening.getsockname()[1], config)

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join()


@pytest.fixture
def site(services: str, start: Start) -> Site:
    return start(Config(trainer=services, serving=services, tenant="acme"))
