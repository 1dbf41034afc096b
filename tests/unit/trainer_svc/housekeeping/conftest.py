from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.trainer_svc.housekeeping.world import World
from trainer_svc.jobs.database import Database


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/jobs.db")
    await database.migrate()
    yield database
    await database.close()


@pytest.fixture
def world(tmp_path: Path, database: Database) -> World:
    return World(tmp_path, database)
