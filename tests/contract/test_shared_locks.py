"""Turns that trainers on one database take among each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from tailorbird.errors import Unavailable
from trainer_svc.jobs.database import Database
from trainer_svc.jobs.shared_locks import SharedLocks

Pair = tuple[SharedLocks, SharedLocks]


@pytest.fixture(params=["postgresql", "sqlite"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    """The locks of two trainers; SQLite has one trainer, which asks twice."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    here, there = Database(url), Database(url)
    locks = SharedLocks(here)
    yield locks, SharedLocks(there) if request.param == "postgresql" else locks
    await here.close()
    await there.close()


async def test_one_key_is_held_by_one_at_a_time(pair: Pair) -> None:
    here, there = pair
    held, order = asyncio.Event(), list[str]()

    async def first() -> None:
        async with here.held("a", "b"):
            held.set()
            order.append("first in")
            async with there.held("c"):
                order.append("another key")
            order.append("first out")

    async def second() -> None:
        await held.wait()
        async with there.held("b"):
            order.append("second in")

    async with asyncio.timeout(30):
        await asyncio.gather(first(), second())
    assert order == ["first in", "another key", "first out", "second in"]


async def test_a_block_that_fails_or_is_cancelled_leaves_nothing_held(pair: Pair) -> None:
    here, there = pair
    waiting = asyncio.Event()

    async def wait_for_it() -> None:
        waiting.set()
        async with there.held("a"):
            raise AssertionError("it is another's")

    async with asyncio.timeout(30):
        with pytest.raises(ZeroDivisionError):
            async with here.held("a"):
                raise ZeroDivisionError
        async with here.held("a"):
            task = asyncio.create_task(wait_for_it())
            await waiting.wait()
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()
        async with there.held("a"), here.held("b"):
            pass


async def test_many_turns_wait_for_no_connection_that_they_hold_themselves(
    postgresql_url: str,
) -> None:
    database = Database(postgresql_url)
    locks = SharedLocks(database)
    inside = 0

    async def one(number: int) -> None:
        nonlocal inside
        async with locks.held(f"key-{number}"), database.read() as connection:
            await connection.execute(sa.text("SELECT 1"))
            inside += 1

    async with asyncio.timeout(60):
        await asyncio.gather(*map(one, range(60)))
    assert inside == 60
    await database.close()


async def test_who_loses_the_database_meanwhile_goes_on_and_who_finds_none_is_told(
    postgresql_url: str,
) -> None:
    database = Database(postgresql_url)
    locks = SharedLocks(database)
    others = sa.text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )
    async with locks.held("a"), database.write() as connection:
        await connection.execute(others)
    async with locks.held("a"):
        pass
    await database.close()
    nowhere = Database("postgresql+asyncpg://nobody@127.0.0.1:1/none")
    with pytest.raises(Unavailable):
        async with SharedLocks(nowhere).held("a"):
            raise AssertionError("there is no database")


async def test_a_turn_that_cannot_be_given_back_ends_with_its_connection(
    postgresql_url: str,
) -> None:
    here, there = Database(postgresql_url), Database(postgresql_url)

    def refuse(*found: object) -> None:
        if "unlock" in str(found[2]):
            raise OperationalError("as the test wants", None, Exception("no answer"))

    async with SharedLocks(here).held("a"):
        sa.event.listen(here._aside.sync_engine, "before_cursor_execute", refuse)
    async with asyncio.timeout(30), SharedLocks(there).held("a"):
        pass
    await here.close()
    await there.close()
