"""Leases, many at a time: kept by their holder, and taken from holders that are gone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from tailorbird.names import JobName
from trainer_svc.jobs.database import clock
from trainer_svc.jobs.events import EventPayload, StateChanged
from trainer_svc.jobs.fence import GivenBack
from trainer_svc.jobs.model import ACTIVE, JobState
from trainer_svc.jobs.rows import Change, apply, ended, in_state, name_of, update_job
from trainer_svc.jobs.tables import LEASED, PUBLISHING, jobs


@dataclass(frozen=True, slots=True)
class Kept:
    """A lease that its holder keeps, and what callers have asked of the job."""

    epoch: int
    cancel_requested: bool
    pause_requested: bool


async def keep(connection: AsyncConnection, owner: str, seconds: float) -> dict[JobName, Kept]:
    """Let every lease of `owner` last so long from now on, and return them."""
    expires = await clock(connection) + timedelta(seconds=seconds)
    asked = jobs.c.cancel_requested, jobs.c.pause_requested
    query = (
        sa.update(jobs)
        .where(jobs.c.lease_owner == owner, sa.text(LEASED))
        .values(lease_expires=expires)
        .returning(jobs.c.tenant, jobs.c.job, jobs.c.lease_epoch, *asked)
    )
    return {
        JobName(tenant, job): Kept(epoch, cancel, pause)
        for tenant, job, epoch, cancel, pause in await connection.execute(query)
    }


async def expired(connection: AsyncConnection, limit: int) -> list[sa.Row[Any]]:
    """Return up to `limit` active jobs whose holder is gone, locked.

    A release that knows no end of a lease leaves it NULL: it has ended.
    """
    over = _over(await clock(connection))
    query = sa.select(jobs).where(in_state(*ACTIVE), sa.text(LEASED), over)
    return await _locked(connection, query.limit(limit))


async def left_over(
    connection: AsyncConnection, owners: str, held: Collection[JobName]
) -> list[sa.Row[Any]]:
    """Return the active jobs that nobody works on, locked.

    Of all whose owner's name begins with `owners`, but those `held`.
    """
    owned = jobs.c.lease_owner.startswith(owners, autoescape=True)
    query = sa.select(jobs).where(in_state(*ACTIVE), sa.text(LEASED), owned)
    return await _locked(connection, _but(query, held))


async def let_go(connection: AsyncConnection, row: sa.Row[Any]) -> None:
    """Take a locked job from its holder, who is gone.

    One whose version is committed goes on PUBLISHING, under whoever claims that next.
    """
    if row.publication is None:
        await apply(connection, row, *give_back(row, GivenBack()))
    else:
        values = {"lease_owner": None, "lease_expires": None}
        await connection.execute(update_job(name_of(row)).values(values))


async def to_publish(
    connection: AsyncConnection, limit: int, avoid: Collection[JobName]
) -> list[sa.Row[Any]]:
    """Return up to `limit` jobs with a committed version that nobody writes, locked.

    None of those to `avoid`.
    """
    now = await clock(connection)
    free = sa.or_(jobs.c.lease_owner.is_(None), _over(now))
    due = sa.or_(jobs.c.not_before.is_(None), jobs.c.not_before <= now)
    query = sa.select(jobs).where(sa.text(PUBLISHING), jobs.c.publication.is_not(None), free, due)
    return await _locked(connection, _but(query, avoid).limit(limit))


def give_back(row: sa.Row[Any], given: GivenBack, not_before: Any = None) -> Change:
    """Return what becomes of a job that nobody works on any more, for `apply`.

    CANCELLED where a caller asked for that, PAUSED where one did or somebody must mend something
    first, else QUEUED, to be taken up from `not_before` on.
    """
    if row.cancel_requested:
        return [StateChanged(state=JobState.CANCELLED)], ended(JobState.CANCELLED)
    state = JobState.PAUSED if row.pause_requested or given.error else JobState.QUEUED
    values = {
        "state": state,
        "lease_owner": None,
        "lease_expires": None,
        "not_before": not_before,
        "pause_requested": False,
        "error": given.error and given.error.model_dump(mode="json"),
    }
    if given.faults is not None:
        values["faults"] = {**(row.faults or {}), **given.faults.model_dump(mode="json")}
    payloads: list[EventPayload] = [StateChanged(state=state, error=given.error)]
    if given.told is not None and state is JobState.QUEUED:
        payloads.insert(0, given.told)
    return payloads, values


def _over(now: Any) -> sa.ColumnElement[bool]:
    return sa.or_(jobs.c.lease_expires.is_(None), jobs.c.lease_expires <= now)


def _but(query: sa.Select[Any], names: Collection[JobName]) -> sa.Select[Any]:
    if not names:
        return query
    left = [(name.tenant, name.job) for name in names]
    return query.where(sa.tuple_(jobs.c.tenant, jobs.c.job).not_in(left))


async def _locked(connection: AsyncConnection, query: sa.Select[Any]) -> list[sa.Row[Any]]:
    """Leave out what another trainer sees to at this moment."""
    return list((await connection.execute(query.with_for_update(skip_locked=True))).all())
