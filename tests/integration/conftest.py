"""Both services' APIs, scripted, on a real socket; `up` with stand-ins for the services."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.scripted_services import Script, serve
from tests.integration.up_process import Up


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def port(script: Script) -> Iterator[int]:
    server, port = serve(script)
    yield port
    server.stop(None).wait()


@pytest.fixture
def start_up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    """Starts `tailorbird up`, with options and variables."""
    started: list[Up] = []

    def up(*options: str, **environment: str) -> Up:
        started.append(Up(tmp_path, *options, **environment))
        return started[-1]

    yield up
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()
