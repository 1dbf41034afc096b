"""Housekeeping built from the trainer's settings."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tailorbird.errors import FailedPrecondition
from tailorbird.names import DatasetName
from tailorbird.object_store import ObjectStore, open_store
from tailorbird.store_check import check_store
from trainer_svc.housekeeping.collector import Stores, Turn
from trainer_svc.housekeeping.model import Rules
from trainer_svc.jobs.database import Database
from trainer_svc.jobs.shared_locks import SharedLocks
from trainer_svc.settings import TrainerSettings


def rules_of(settings: TrainerSettings) -> Rules:
    """Return how old garbage must be."""
    kept = settings.job_retention_days
    return Rules(
        grace=timedelta(hours=settings.collect_grace_hours),
        deleted_versions=timedelta(days=settings.deleted_versions_days),
        ended_jobs=None if kept is None else timedelta(days=kept),
    )


def caches_of(settings: TrainerSettings) -> Path:
    """Return the folder of tokenised datasets."""
    return settings.data_dir.resolve() / "cache" / "datasets"


def stores_of(
    settings: TrainerSettings, database: Database, objects: ObjectStore, turn: Turn
) -> Stores:
    """Return where there is something to keep in order."""
    url = urlsplit(settings.object_store_url)
    folder = Path(unquote(url.path)) if url.scheme == "file" else None
    return Stores(database, objects, turn, caches_of(settings), folder)


@asynccontextmanager
async def opened(settings: TrainerSettings) -> AsyncIterator[Stores]:
    """Open a trainer's stores beside it, for a command.

    Raises FailedPrecondition (NO_JOB_STORE), and StoreUnavailable.
    """
    file = settings.data_dir.resolve() / "trainer.db"
    if not settings.database_url and not file.exists():
        raise FailedPrecondition(
            f"there is no job store at {file}: without it nothing is removed",
            reason="NO_JOB_STORE",
            setting="data_dir",
        )
    await check_store(settings.object_store_url)
    database = Database(settings.database)
    locks = SharedLocks(database)

    def turn(dataset: DatasetName) -> AbstractAsyncContextManager[None]:
        # Beside a trainer on SQLite the age of a dataset's objects has to do.
        return locks.held(str(dataset))

    try:
        objects = open_store(settings.object_store_url, settings.store_retry_timeout)
        yield stores_of(settings, database, objects, turn)
    finally:
        await database.close()
