"""A database that stops answering while its connections stay open: one in use, one in the pool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import sqlalchemy as sa

from tests.unit.trainer_svc.values import make_job
from trainer_svc.jobs.database import Database, DatabaseUnavailable
from trainer_svc.jobs.feed import Feed
from trainer_svc.jobs.model import JobState
from trainer_svc.jobs.rows import job_row
from trainer_svc.jobs.store import JobStore


class Proxy:
    """Stands between a client and a PostgreSQL server's socket; passes nothing once `stalled`."""

    def __init__(self, folder: Path) -> None:
        (self._socket,) = folder.glob(".s.PGSQL.*[0-9]")
        self._tasks: set[asyncio.Task[None]] = set()
        self._go = asyncio.Event()
        self._go.set()

    def stall(self) -> None:
        self._go.clear()

    async def start(self, stack: AsyncExitStack) -> int:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        stack.push_async_callback(self._end)
        stack.callback(server.close)
        return int(server.sockets[0].getsockname()[1])

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, there = await asyncio.open_unix_connection(str(self._socket))
        for pair in ((reader, there), (back, writer)):
            task = asyncio.create_task(self._pass(*pair))
            self._tasks.add(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.CancelledError):
            while data := await reader.read(65536):
                await self._go.wait()
                writer.write(data)
                await writer.drain()
        writer.close()

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)


@pytest.fixture
async def proxied(postgresql_url: str) -> AsyncIterator[tuple[Proxy, Database]]:
    parts = urlsplit(postgresql_url)
    async with AsyncExitStack() as stack:
        proxy = Proxy(Path(parse_qs(parts.query)["host"][0]))
        port = await proxy.start(stack)
        yield proxy, Database(f"{parts.scheme}://{parts.username}@127.0.0.1:{port}{parts.path}")


async def test_a_stop_does_not_wait_for_it(proxied: tuple[Proxy, Database]) -> None:
    proxy, database = proxied
    begun = asyncio.Event()

    async def write() -> None:
        async with database.write() as connection:
            await connection.execute(sa.text("SELECT 1"))
            proxy.stall()
            begun.set()
            await connection.execute(sa.text("SELECT 2"))

    async with asyncio.timeout(60):
        async with database.read(), database.read():
            pass  # both are in the pool from now on
        writing = asyncio.create_task(write())
        await begun.wait()
        writing.cancel()
        await asyncio.wait({writing})
        await database.close()
    assert writing.cancelled()


@pytest.fixture
def _short_statements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer_svc.jobs.database._STATEMENT_SECONDS", 0.2)


@pytest.mark.usefixtures("_short_statements")
@pytest.mark.parametrize("kind", ["read", "write"])
async def test_a_statement_without_an_answer_is_given_up(
    proxied: tuple[Proxy, Database], kind: str
) -> None:
    proxy, database = proxied
    async with asyncio.timeout(60):
        with pytest.raises(DatabaseUnavailable):
            async with getattr(database, kind)() as connection:
                await connection.execute(sa.text("SELECT 1"))
                proxy.stall()
                await connection.execute(sa.text("SELECT 2"))
        await database.close()


@pytest.fixture
def _short_idleness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer_svc.jobs.database._IDLE_SECONDS", 0.2)


@pytest.mark.usefixtures("_short_idleness")
async def test_who_stands_still_in_a_transaction_keeps_no_lock_from_others(
    postgresql_url: str,
) -> None:
    stopped, other = Database(postgresql_url), Database(postgresql_url)
    await stopped.migrate()
    store = JobStore(other, Feed(), lease_seconds=0.0)
    job = await store.create(make_job(), "", "a" * 64)
    assert await store.claim("stopped") is not None
    async with asyncio.timeout(60):
        with pytest.raises(DatabaseUnavailable):
            async with stopped.write() as connection:
                await job_row(connection, job.name, lock=True)
                assert await store.take_over() == []
                assert (await store.get(job.name)).state is JobState.PREPARING
                # Waits for the lock.
                await store.request_pause(job.name)
                await store.take_over()
                assert (await store.get(job.name)).state is JobState.PAUSED
                await connection.execute(sa.text("SELECT 1"))
    for database in (stopped, other):
        await database.close()


@pytest.mark.usefixtures("_short_idleness")
async def test_the_turn_of_a_dataset_may_take_longer_than_that(postgresql_url: str) -> None:
    database = Database(postgresql_url)
    connection = await database.aside()
    assert connection is not None
    idle = sa.text("SHOW idle_in_transaction_session_timeout")
    assert (await connection.execute(idle)).scalar_one() == "0"
    await connection.close()
    async with database.read() as reading:
        assert (await reading.execute(idle)).scalar_one() == "200ms"
    await database.close()


async def test_a_connection_that_is_lost_as_it_begins_is_a_store_that_is_away(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = "SELECT pg_terminate_backend(pg_backend_pid())"
    monkeypatch.setattr("trainer_svc.jobs.database._KEPT_ALIVE", lost)
    database = Database(postgresql_url)
    with pytest.raises(DatabaseUnavailable):
        async with database.read():
            pass
    with pytest.raises(DatabaseUnavailable):
        async with database.write():
            pass
    with pytest.raises(DatabaseUnavailable):
        await database.aside()
    with pytest.raises(DatabaseUnavailable, match="terminating connection"):
        await database.migrate()
    await database.close()
