"""The queue in its order: priority, then the tenant with the fewest jobs at work, then age.

Of each tenant with jobs that wait only the first is looked at, through an index: a look costs by
the number of tenants that wait, however many jobs they have.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.selectable import NamedFromClause

from tailorbird.errors import NotFound
from tailorbird.names import JobName
from trainer_svc.jobs.database import clock
from trainer_svc.jobs.model import Job
from trainer_svc.jobs.rows import job_row, readable
from trainer_svc.jobs.tables import LEASED, QUEUED, jobs

_MOST_UNREADABLE = 10
"""Jobs of one tenant that this release cannot read; the rest of them wait for the next look."""
_NUL = r"\u0000"
"""How JSON has that character."""


@dataclass
class _Look:
    """What a look at the queue leaves out; `passed` grows while it goes on."""

    now: datetime
    passed: Collection[tuple[str, str]]
    seen: set[JobName]
    full: set[str]
    """Tenants of whom no more is asked."""
    unreadable: Counter[str] = field(default_factory=Counter)


async def at_work(connection: AsyncConnection) -> Counter[str]:
    """Return how many jobs of each tenant are leased."""
    count = sa.func.count()
    query = sa.select(jobs.c.tenant, count).where(sa.text(LEASED)).group_by(jobs.c.tenant)
    counted: Counter[str] = Counter()
    for tenant, found in await connection.execute(query):
        counted[tenant] = found
    return counted


async def count_queued(connection: AsyncConnection, tenant: str) -> int:
    """Return how many jobs of a tenant wait to be taken up."""
    query = sa.select(sa.func.count()).where(jobs.c.tenant == tenant, sa.text(QUEUED))
    return int((await connection.execute(query.select_from(jobs))).scalar_one())


async def queued(
    connection: AsyncConnection,
    running: Mapping[str, int],
    full: Collection[str],
    avoid: Collection[JobName],
    passed: Collection[tuple[str, str]],
) -> AsyncGenerator[Job]:
    """Yield the queued jobs that may be taken up now and can be read, in the queue's order.

    `running`: how many jobs each tenant has at work. Of the tenants in `full` none is yielded, nor
    those to `avoid`, nor any of a base, by name and digest, that is in `passed` by then: however
    many jobs wait for a base that has no room, they hide no other's.
    """
    look = _Look(await clock(connection), passed, set(), set(full))
    heads = await _heads(connection, running, look)
    while heads:
        head = heapq.heappop(heads)
        name = JobName(head.tenant, head.job)
        look.seen.add(name)
        before = len(passed)
        # Few of those to avoid wait: to leave them out here costs less than in each query.
        if name not in avoid and (found := await _read(connection, name, look)) is not None:
            yield found
        if len(passed) > before:
            # All whose first was of that base have another first now.
            heads = await _heads(connection, running, look)
            continue
        for each in await _heads(connection, running, look, {head.tenant}):
            heapq.heappush(heads, each)


async def _read(connection: AsyncConnection, name: JobName, look: _Look) -> Job | None:
    """Return a job, or None if it is gone meanwhile, or only a later release can read it."""
    with suppress(NotFound):
        if (found := readable(await job_row(connection, name))) is not None:
            return found
        look.unreadable[name.tenant] += 1
        if look.unreadable[name.tenant] >= _MOST_UNREADABLE:
            look.full.add(name.tenant)
    return None


class _Head(NamedTuple):
    """The first job of a tenant that may be taken up, by its place in the queue."""

    urgency: int
    running: int
    create_time: datetime
    job: str
    tenant: str


async def _heads(
    connection: AsyncConnection,
    running: Mapping[str, int],
    look: _Look,
    of: Collection[str] | None = None,
) -> list[_Head]:
    """Return the first job of each tenant, or of each of these, as a heap."""
    columns = jobs.c.tenant, jobs.c.job, jobs.c.priority, jobs.c.create_time
    rows = await connection.execute(_first_of_each(columns, look, of))
    heads = [
        _Head(-priority, running.get(tenant, 0), created, job, tenant)
        for tenant, job, priority, created in rows
    ]
    heapq.heapify(heads)
    return heads


def _first_of_each(
    columns: Collection[sa.ColumnElement[Any]], look: _Look, of: Collection[str] | None
) -> sa.Select[Any]:
    tenants = _listed(of) if of is not None else _waiting()
    each = sa.alias(jobs, "each")
    first = (
        sa.select(each.c.job)
        .where(each.c.tenant == tenants.c.tenant, _queued(each), *_left(each, look))
        .order_by(each.c.priority.desc(), each.c.create_time, each.c.job)
        .limit(1)
        .scalar_subquery()
    )
    query = sa.select(*columns).select_from(
        tenants.join(jobs, sa.and_(jobs.c.tenant == tenants.c.tenant, jobs.c.job == first))
    )
    return query.where(tenants.c.tenant.not_in(look.full)) if look.full else query


def _waiting() -> sa.CTE:
    """Select the tenants with queued jobs, from one to the next: not each of their jobs is read."""
    begin = sa.select(sa.func.min(jobs.c.tenant).label("tenant")).where(sa.text(QUEUED))
    tenants = begin.cte("tenants", recursive=True)
    each = sa.alias(jobs, "later")
    following = (
        sa.select(sa.func.min(each.c.tenant))
        .where(_queued(each), each.c.tenant > tenants.c.tenant)
        .scalar_subquery()
    )
    return tenants.union_all(sa.select(following).where(tenants.c.tenant.is_not(None)))


def _listed(tenants: Collection[str]) -> sa.CTE:
    first, *others = sorted(tenants)
    selected = sa.select(sa.literal(first).label("tenant"))
    return selected.union_all(*(sa.select(sa.literal(each)) for each in others)).cte("tenants")


def _queued(of: NamedFromClause) -> sa.ColumnElement[bool]:
    # As literals, by which a database finds the index that is of these alone.
    return sa.literal_column(f"{of.name}.{QUEUED}")


def _left(of: sa.FromClause, look: _Look) -> list[sa.ColumnElement[bool]]:
    left: list[sa.ColumnElement[bool]] = [
        sa.or_(of.c.not_before.is_(None), of.c.not_before <= look.now)
    ]
    if look.seen:
        names = [(name.tenant, name.job) for name in look.seen]
        left.append(sa.tuple_(of.c.tenant, of.c.job).not_in(names))
    if look.passed:
        left.append(sa.tuple_(*_base_of(of)).not_in(list(look.passed)))
    return left


def _base_of(of: sa.FromClause) -> tuple[sa.ColumnElement[str], sa.ColumnElement[str]]:
    # Of a text with a NUL in it PostgreSQL reads no field at all: whose job has one, which earlier
    # releases let in, is yielded, and stops no look at others'.
    legible = ~sa.cast(of.c.spec, sa.Text).contains(_NUL, autoescape=True)
    # An older release wrote no digest.
    name, digest = (
        sa.func.coalesce(sa.case((legible, of.c.spec[field].as_string())), "")
        for field in ("base_model", "base_model_digest")
    )
    return name, digest
