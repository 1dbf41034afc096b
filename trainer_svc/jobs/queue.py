"""The queue in its order, read a page at a time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from tailorbird.names import JobName
from trainer_svc.jobs.model import Job, JobState
from trainer_svc.jobs.rows import in_state, narrowed, readable
from trainer_svc.jobs.tables import jobs

_PAGE = 100


async def queued(
    connection: AsyncConnection,
    avoid: Collection[JobName],
    passed: Collection[tuple[str, str]],
) -> AsyncGenerator[Job]:
    """Yield the queued jobs that can be read, the oldest first, but those to `avoid`.

    Each page leaves out the bases that are in `passed` by then: however many jobs wait for a base
    that has no room, they cost the database a look and hide no other's.
    """
    order = jobs.c.create_time, jobs.c.job, jobs.c.tenant
    base = sa.tuple_(_of_spec("base_model"), _of_spec("base_model_digest"))
    query = sa.select(jobs).where(in_state(JobState.QUEUED))
    query = narrowed(query, None, avoid).order_by(*order).limit(_PAGE)
    page = (await connection.execute(query)).all()
    while page:
        for row in page:
            if (found := readable(row)) is not None:
                yield found
        if len(page) < _PAGE:
            return
        last = [sa.literal(getattr(page[-1], each.name), each.type) for each in order]
        rest = query.where(sa.tuple_(*order) > sa.tuple_(*last))
        if passed:
            rest = rest.where(base.not_in(list(passed)))
        page = (await connection.execute(rest)).all()


def _of_spec(field: str) -> sa.ColumnElement[Any]:
    # An older release wrote no digest.
    return sa.func.coalesce(jobs.c.spec[field].as_string(), "")
