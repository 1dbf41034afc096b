"""A real job store and a real object store, each in a temporary folder."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import settings

from tailorbird.object_store import ObstoreStore, open_store
from trainer_svc.jobs.database import Database
from trainer_svc.jobs.feed import Feed
from trainer_svc.jobs.store import JobStore

# How long an example takes is the machine's business.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

# A shell's background job ignores it, and so would every process that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_configure = structlog.configure


def _configure_without_cache(**settings: Any) -> None:
    """As a service configures its logs, but no logger keeps what it was first used with.

    One that did could not be captured by any later test of the same process.
    """
    _configure(**settings | {"cache_logger_on_first_use": False})


structlog.configure = _configure_without_cache  # type: ignore[assignment]


@pytest.fixture
async def jobs(tmp_path: Path) -> AsyncIterator[JobStore]:
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/jobs.db")
    await database.migrate()
    yield JobStore(database, Feed())
    await database.close()


@pytest.fixture
def object_store(tmp_path: Path) -> ObstoreStore:
    return open_store((tmp_path / "store").as_uri())


@pytest.fixture(autouse=True)
def no_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the contexts of whoever runs the tests out of them."""
    monkeypatch.setenv("TAILORBIRD_CONTEXTS_FILE", "/nonexistent/contexts.yaml")
    monkeypatch.delenv("TAILORBIRD_CONTEXT", raising=False)
