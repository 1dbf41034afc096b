"""A queue as a busy platform has it: rows as the job store writes them, many at a time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from bench.jobs.sizes import Sizes
from tailorbird.names import JobName
from trainer_svc.jobs.database import Database
from trainer_svc.jobs.events import StateChanged
from trainer_svc.jobs.model import Job, JobSpec, JobState, PromotionPolicy
from trainer_svc.jobs.rows import RECORD_VERSION, begun
from trainer_svc.jobs.tables import events, jobs

_DIGEST = "sha256:" + "0" * 64
_ROWS = 1000
_AGE = timedelta(days=1)


def tenant_of(number: int) -> str:
    """Return the id of one of the tenants."""
    return f"tenant-{number:03}"


def queued_job(tenant: str, job: str, created: datetime) -> Job:
    """Return a job as a caller asks for it."""
    spec = JobSpec(
        base_model="base",
        base_model_digest=_DIGEST,
        training_dataset=f"tenants/{tenant}/datasets/chats",
        adapter=f"tenants/{tenant}/adapters/{job}",
        promotion_policy=PromotionPolicy.ALWAYS,
    )
    return Job(name=JobName(tenant, job), spec=spec, state=JobState.QUEUED, create_time=created)


async def fill(database: Database, sizes: Sizes) -> None:
    """Put in the jobs, queued and ended ones mixed, and have them counted as autovacuum would."""
    made = list(_made(sizes))
    for start in range(0, len(made), _ROWS):
        some = made[start : start + _ROWS]
        async with database.write() as connection:
            rows = [begun(job, "", "", 1) | {"state": job.state} for job in some]
            await connection.execute(sa.insert(jobs), rows)
            await connection.execute(sa.insert(events), [_first_event(job) for job in some])
    async with database.write() as connection:
        await connection.execute(sa.text("ANALYZE"))


def _first_event(job: Job) -> dict[str, Any]:
    return {
        "tenant": job.name.tenant,
        "job": job.name.job,
        "sequence": 1,
        "time": job.create_time,
        "payload": StateChanged(state=job.state).model_dump(mode="json"),
        "record_version": RECORD_VERSION,
    }


def _made(sizes: Sizes) -> Iterator[Job]:
    draw = random.Random(0)
    states = [JobState.QUEUED] * sizes.queued + [JobState.SUCCEEDED] * sizes.ended
    draw.shuffle(states)
    begin = datetime.now(UTC) - _AGE
    for number, state in enumerate(states):
        created = begin + _AGE * number / len(states)
        # Not in turn: some tenants have several in a row, and more than others.
        tenant = tenant_of(draw.randrange(sizes.tenants))
        yield queued_job(tenant, f"j{number:06}", created).model_copy(update={"state": state})
