"""Both services' APIs, scripted, on a real socket."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.scripted_services import Script, serve


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def port(script: Script) -> Iterator[int]:
    server, port = serve(script)
    yield port
    server.stop(None).wait()
