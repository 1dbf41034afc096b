"""Which jobs need a dataset."""

from __future__ import annotations

import sqlalchemy as sa

from tailorbird.names import DatasetName
from trainer_svc.jobs.model import TERMINAL
from trainer_svc.jobs.tables import jobs


def users_of(dataset: DatasetName) -> sa.Select[tuple[str, str, bool]]:
    """Return a query for the jobs of the tenant that have not ended and name the dataset.

    With `is_sweep`: whether it carries a sweep out. The oldest first. What a later release has
    written into a job's state is none in which it has ended.
    """
    named = [
        jobs.c.spec[field].as_string() == str(dataset)
        for field in ("training_dataset", "validation_dataset")
    ]
    return (
        sa.select(jobs.c.tenant, jobs.c.job, jobs.c.sweep.is_not(None).label("is_sweep"))
        .where(jobs.c.tenant == dataset.tenant, jobs.c.state.not_in(TERMINAL), sa.or_(*named))
        .order_by(jobs.c.create_time, jobs.c.job)
    )
