"""A job's data held against its limits before the job exists. Knows no gRPC and no SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tailorbird.errors import DataCorrupt, FailedPrecondition, NotFound
from trainer_svc.datasets.dataset import Dataset
from trainer_svc.datasets.deleted import DeletedData
from trainer_svc.datasets.leakage import Leakage
from trainer_svc.datasets.report.limits import (
    DataLimits,
    Finding,
    exceeded,
    findings,
    inherited_leak,
    leak,
    to_tell,
)
from trainer_svc.jobs.events import JobWarning
from trainer_svc.jobs.inherited import SeenData, distinct

_FIELD = "job.spec.data_limits"


class Compared(Protocol):
    """Where two datasets are compared."""

    async def leakage(self, training: Dataset | DeletedData, validation: Dataset) -> Leakage | None:
        """Return what they share, or None if one of them has no digests that can be read."""


async def check_data(
    datasets: Compared,
    limits: DataLimits,
    training: Dataset,
    validation: Dataset | None,
    seen: Sequence[SeenData] = (),
) -> tuple[JobWarning, ...]:
    """Return what a job on this data is to be warned of.

    `seen` is what the version has been trained on whose weights training begins with. Reads nothing
    but digests, and these only where there is validation data.
    Raises FailedPrecondition, DATA_LIMIT_EXCEEDED for a fault above its limit and DATA_NOT_CHECKED
    for a limit on data that has no report; DataCorrupt for an index that is not what was written.
    """
    found = list(findings(training.report)) if training.report is not None else []
    unknown = [one.name for one in (training, validation) if one and one.report is None]
    lost: list[SeenData] = []
    if validation is not None:
        shared = await datasets.leakage(training, validation)
        if shared is not None:
            found.append(leak(shared))
        else:
            unknown = unknown or [training.name, validation.name]
        others = [one for one in distinct(seen) if one.sha256 != training.sha256]
        for one in others if validation.report is not None else ():
            if (leaked := await _inherited(datasets, one, validation)) is not None:
                found.append(leaked)
            else:
                lost.append(one)
    _refuse(found, limits)
    warnings = [
        JobWarning(reason=one.reason, message=one.message) for one in to_tell(found, limits)
    ]
    if unknown:
        warnings.append(_unchecked(unknown, limits))
    return (*warnings, *map(_lost, lost))


async def _inherited(datasets: Compared, seen: SeenData, validation: Dataset) -> Finding | None:
    """Compare the validation data with what a version has seen; None if that is not known."""
    if seen.data is None:
        return None
    try:
        shared = await datasets.leakage(seen.data, validation)
    except (DataCorrupt, NotFound):
        # It is no data of the job's, which can do nothing about it.
        return None
    return None if shared is None else inherited_leak(shared, seen.version, seen.dataset)


def _lost(seen: SeenData) -> JobWarning:
    why = "what it was trained on is known no more"
    if seen.dataset:
        why = f"of {seen.dataset} as it was then no digests are left that this release reads"
    return JobWarning(
        reason="DATA_NOT_CHECKED",
        message=f"it is not known whether {seen.version}, which training begins with, has seen the "
        f"validation data: {why}",
    )


def _refuse(found: list[Finding], limits: DataLimits) -> None:
    above = exceeded(found, limits)
    if not above:
        return
    first, limit = above[0]
    said = "; ".join(f"{_FIELD}.{one.limit} is {most:g}: {one.message}" for one, most in above)
    raise FailedPrecondition(
        said,
        reason="DATA_LIMIT_EXCEEDED",
        field=f"{_FIELD}.{first.limit}",
        value=f"{first.share:.6g}",
        limit=f"{limit:g}",
        fault=first.reason,
    )


def _unchecked(names: list[str], limits: DataLimits) -> JobWarning:
    message = (
        f"{' and '.join(names)}: uploaded to another release, which left no report that this one "
        "reads, so that duplicates, contradictions and leaks are not known; upload the data again "
        "under another name"
    )
    if limits.any_set:
        raise FailedPrecondition(message, reason="DATA_NOT_CHECKED", field=_FIELD)
    return JobWarning(reason="DATA_NOT_CHECKED", message=message)
