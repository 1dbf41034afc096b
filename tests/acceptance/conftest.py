"""A real PostgreSQL for trainers that share one, and a real S3 server that fails as it is told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from tests.contract.conftest import postgresql_server, postgresql_url, s3_endpoint, s3_url
from tests.fault_proxy import FaultProxy

__all__ = ["postgresql_server", "postgresql_url", "s3_endpoint", "s3_url"]


@pytest.fixture
def proxy(s3_url: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Yield a proxy in a thread of its own: a test waits for processes that go through it."""
    made = FaultProxy(s3_endpoint)
    started, ended = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with made:
            started.set()
            await ended.wait()

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert started.wait(30)
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
    yield made
    loop.call_soon_threadsafe(ended.set)
    thread.join()
    loop.close()
