"""Every statement of a job's whole life fails once, and every commit loses its answer once.

The worker speaks the protocol and trains nothing. Whatever fails, there is one history and one
version in the end.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from tailorbird.errors import Unavailable
from tailorbird.object_store import open_store
from tests.contract.conftest import new_postgresql
from tests.contract.trainers import DIGEST, Trainers, trainers
from tests.unit.trainer_svc.dispatching import ended, states
from tests.unit.trainer_svc.fakes import published
from tests.unit.trainer_svc.values import make_job
from trainer_svc.jobs.database import Database, DatabaseUnavailable
from trainer_svc.jobs.events import StepProgress
from trainer_svc.jobs.model import JobState

_T = TypeVar("_T")
_WHOLE = ["QUEUED", "PREPARING", "RUNNING", "EVALUATING", "PUBLISHING", "SUCCEEDED"]
_GIVEN_BACK = ["QUEUED", "PREPARING", *_WHOLE]


class FailingDatabase(Database):
    """Fails the statement, or loses the answer to the commit, of the number given; once."""

    def __init__(self, url: str, kind: str, number: int) -> None:
        super().__init__(url)
        self.struck = False
        self._kind = kind
        self._left = number
        if kind == "statement":
            sa.event.listen(self._engine.sync_engine, "before_cursor_execute", self._statement)

    def _strikes(self) -> bool:
        self._left -= 1
        self.struck |= self._left == 0
        return self._left == 0

    def _statement(self, *_: object) -> None:
        if self._strikes():
            raise OperationalError("as the test wants", None, Exception("gone"))

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        async with super().write() as connection:
            yield connection
        if self._kind == "commit" and self._strikes():
            raise DatabaseUnavailable("as the test wants")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("backoff", "losses"):
        monkeypatch.setattr(f"trainer_svc.dispatch.{module}._SECONDS", (0.001,))


@pytest.fixture
def new_url(request: pytest.FixtureRequest, engine: str) -> Callable[[Path], str]:
    """Return what makes a database for a folder."""
    if engine == "sqlite":
        return lambda folder: f"sqlite+aiosqlite:///{folder}/jobs.db"
    server: object = request.getfixturevalue("postgresql_server")
    return lambda _: new_postgresql(server)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kind", "engine"),
    [
        ("statement", "sqlite"),
        ("commit", "sqlite"),
        ("commit", "postgresql"),
        pytest.param("statement", "postgresql", marks=pytest.mark.long),
    ],
)
async def test_whatever_fails_there_is_one_history_and_one_version(
    tmp_path: Path, kind: str, new_url: Callable[[Path], str]
) -> None:
    number, struck = 0, True
    while struck:
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        url = new_url(folder)
        async with trainers(url, open_store((folder / "store").as_uri()), folder) as world:
            database = FailingDatabase(url, kind, number)
            await _live(world, database)
            struck = database.struck
        shutil.rmtree(folder)
    # So many that none was overlooked: at least two a transaction, and two dozen of these.
    assert number > (60 if kind == "statement" else 15)


async def _live(world: Trainers, database: FailingDatabase) -> None:
    trainer = world.start(database=database)
    try:
        job = await _insist(lambda: trainer.jobs.create(make_job(), "r1", DIGEST))
        await _insist(lambda: ended(trainer.jobs, job.name))
        found = await _insist(lambda: trainer.jobs.get(job.name))
        told = await _insist(lambda: trainer.jobs.events(job.name, 0, 100))
    finally:
        await trainer.close()
    assert found.state is JobState.SUCCEEDED
    # A claim whose answer was lost is given back, and taken anew.
    history = await states(world.reader(), job.name)
    assert history == (_WHOLE if found.lease_epoch == 1 else _GIVEN_BACK)
    assert found.lease_epoch <= 2
    steps = [event.payload.step for event in told if isinstance(event.payload, StepProgress)]
    assert steps == [1, 2, 3, 4]
    assert await published(world.store) == [f"{found.version}/manifest.json"]
    routes = [each.key async for each in world.store.objects(f"{job.spec.adapter}/routes")]
    assert len(routes) == 1


async def _insist(ask: Callable[[], Awaitable[_T]]) -> _T:
    """Ask again what failed, as a caller does."""
    while True:
        try:
            return await ask()
        except Unavailable:
            continue
