"""python -m trainer_svc check: what this trainer needs, and whether it is as it should be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import sqlalchemy as sa

from tailorbird.doctor.clock import told_skew
from tailorbird.doctor.finding import Finding, Status, failed, ok, warning
from tailorbird.doctor.folders import nearest
from tailorbird.doctor.running import Check
from tailorbird.doctor.service import run as run_checks
from tailorbird.errors import InvalidArgument
from tailorbird.local_disk import shared_filesystem
from trainer_svc.jobs import migrations
from trainer_svc.jobs.database import Database, DatabaseUnavailable, clock
from trainer_svc.settings import TrainerSettings

_SECONDS = 10.0
_SUBJECT = "database"
_NO_DATABASE, _NOT_ALLOWED = "3D000", "28"
"""SQLSTATE of a database that does not exist; the class of those of who may not come in."""
_MAKE = "make the database (CREATE DATABASE …), or correct its name in TAILORBIRD_DATABASE_URL"
_ALLOW = (
    "correct the user and the password in TAILORBIRD_DATABASE_URL; characters such as : / @ in a"
    " password are to be percent-encoded"
)
_RESTORE = (
    "it is no job store of tailorbird, or is damaged: name another in TAILORBIRD_DATABASE_URL, or"
    " restore it"
)
_REACH = (
    "is PostgreSQL up, are host and port in TAILORBIRD_DATABASE_URL right, and does no network"
    " policy keep this machine out?"
)


def run(arguments: Sequence[str]) -> int:
    """Print the findings; see `tailorbird.doctor.service.run`."""
    return run_checks(arguments, "trainer_svc", TrainerSettings, _own, "trainer.lock")


def _own(settings: TrainerSettings) -> list[Check]:
    return [Check(_SUBJECT, partial(database, settings.database))]


def database(url: str, seconds: float = _SECONDS) -> Iterator[Finding]:
    """Tell whether the job store answers, and how old its tables are; SQLite's file is not made."""
    if url.startswith("sqlite"):
        file = Path(sa.make_url(url).database or "")
        if kind := shared_filesystem(file.parent):
            yield warning(
                _SUBJECT,
                f"{file} lies on a file system that machines share ({kind}): SQLite may lose it",
                "use a block volume for TAILORBIRD_DATA_DIR, or set TAILORBIRD_DATABASE_URL",
            )
        if not file.exists():
            parent = nearest(file.parent)
            yield ok(_SUBJECT, f"SQLite, made at the first start in {parent}")
            return
    yield from asyncio.run(_asked(url, seconds))


async def _asked(url: str, seconds: float) -> list[Finding]:
    try:
        store = Database(url)
    except InvalidArgument as error:
        return [failed(_SUBJECT, error.description, "correct TAILORBIRD_DATABASE_URL")]
    try:
        async with asyncio.timeout(seconds):
            revision = await store.revision()
            async with store.read() as connection:
                theirs = await clock(connection)
            skew = time.time() - theirs.timestamp()
    except TimeoutError:
        return [failed(_SUBJECT, f"it does not answer within {seconds:g} s", _REACH)]
    except DatabaseUnavailable as error:
        return [failed(_SUBJECT, error.message, _advice(url, error))]
    finally:
        await store.close()
    found = [_told(revision)]
    off = told_skew(skew, "the database's, which leases go by")
    return found if off.status is Status.OK else [*found, off]


def _told(revision: str | None) -> Finding:
    known = migrations.known()
    if revision is None:
        return ok(_SUBJECT, "it answers; the tables are made at the first start")
    if revision not in known:
        return warning(
            _SUBJECT,
            f"its tables are those of a later release ({revision}; this one knows {known[0]})",
            "install that release again: this one leaves the tables as they are",
        )
    if revision != known[0]:
        return ok(_SUBJECT, f"it answers; its tables ({revision}) become {known[0]} at the start")
    return ok(_SUBJECT, f"it answers; its tables are this release's ({revision})")


def _advice(url: str, error: BaseException | None) -> str:
    if url.startswith("sqlite"):
        return _RESTORE
    while error is not None:
        state = str(getattr(getattr(error, "orig", error), "sqlstate", None) or "")
        if state == _NO_DATABASE:
            return _MAKE
        if state.startswith(_NOT_ALLOWED):
            return _ALLOW
        error = error.__cause__
    return _REACH
