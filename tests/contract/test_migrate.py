"""`python -m trainer_svc migrate`, beside trainers and before the first of them."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from structlog.testing import capture_logs

from tailorbird.interruption import Interruption
from trainer_svc.housekeeping import command
from trainer_svc.housekeeping.migration import migrate
from trainer_svc.jobs import migrations
from trainer_svc.jobs.database import Database, DatabaseUnavailable

NEWEST = ScriptDirectory(str(Path(migrations.__file__).parent)).get_current_head()


async def revision(url: str) -> str | None:
    database = Database(url)
    try:
        return await database.revision()
    finally:
        await database.close()


async def test_the_tables_are_brought_to_the_newest_once(postgresql_url: str) -> None:
    with capture_logs() as logs:
        await migrate(postgresql_url, 30)
        await migrate(postgresql_url, 30)

    assert await revision(postgresql_url) == NEWEST
    told = [(e["before"], e["after"]) for e in logs if e["event"] == "job store migrated"]
    assert told == [(None, NEWEST), (NEWEST, NEWEST)]


async def test_several_at_once_do_not_meet(postgresql_url: str) -> None:
    await asyncio.gather(*(migrate(postgresql_url, 30) for _ in range(4)))

    assert await revision(postgresql_url) == NEWEST


async def test_a_later_release_s_tables_are_left_as_they_are(postgresql_url: str) -> None:
    await migrate(postgresql_url, 30)
    database = Database(postgresql_url)
    async with database.write() as connection:
        await connection.run_sync(_name_it_later)
    await database.close()

    await migrate(postgresql_url, 30)

    assert await revision(postgresql_url) == "9999"


def _name_it_later(connection: Connection) -> None:
    connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))


async def test_a_database_that_is_late_is_waited_for(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = 0
    answered = Database.revision

    async def late(self: Database) -> str | None:
        nonlocal answers
        answers += 1
        if answers < 3:
            raise DatabaseUnavailable("not yet")
        return await answered(self)

    monkeypatch.setattr(Database, "revision", late)
    await migrate(postgresql_url, 60)

    assert await revision(postgresql_url) == NEWEST


async def test_it_is_waited_for_no_longer_than_asked() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"postgresql+asyncpg://u:word@127.0.0.1:{nobody.getsockname()[1]}/x"
        before = time.monotonic()
        with capture_logs() as logs, pytest.raises(DatabaseUnavailable, match="cannot be used"):
            await migrate(url, 0.6)

    assert time.monotonic() - before < 60
    assert len([each for each in logs if each["event"] == "the job store is tried again"]) == 1


def test_the_command_migrates_the_embedded_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAILORBIRD_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("TAILORBIRD_BASE_MODEL", "org/name")

    assert command.run(["migrate"], Interruption("migrate")) == 0

    assert asyncio.run(revision(f"sqlite+aiosqlite:///{tmp_path}/trainer.db")) == NEWEST
