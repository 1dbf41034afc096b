"""A job's data held against its limits before the job exists. Knows no gRPC and no SQL."""

from __future__ import annotations

from typing import Protocol

from tailorbird.errors import FailedPrecondition
from trainer_svc.datasets.dataset import Dataset
from trainer_svc.datasets.leakage import Leakage
from trainer_svc.datasets.report.limits import (
    DataLimits,
    Finding,
    exceeded,
    findings,
    leak,
    to_tell,
)
from trainer_svc.jobs.events import JobWarning

_FIELD = "job.spec.data_limits"


class Compared(Protocol):
    """Where two datasets are compared."""

    async def leakage(self, training: Dataset, validation: Dataset) -> Leakage | None:
        """Return what they share, or None if one of them has no digests that can be read."""


async def check_data(
    datasets: Compared, limits: DataLimits, training: Dataset, validation: Dataset | None
) -> tuple[JobWarning, ...]:
    """Return what a job on this data is to be warned of.

    Reads nothing but the digests of both datasets, and these only where there is validation data.
    Raises FailedPrecondition, DATA_LIMIT_EXCEEDED for a fault above its limit and DATA_NOT_CHECKED
    for a limit on data that has no report; DataCorrupt for an index that is not what was written.
    """
    found = list(findings(training.report)) if training.report is not None else []
    unknown = [one.name for one in (training, validation) if one and one.report is None]
    if validation is not None:
        shared = await datasets.leakage(training, validation)
        if shared is not None:
            found.append(leak(shared))
        else:
            unknown = unknown or [training.name, validation.name]
    _refuse(found, limits)
    warnings = [
        JobWarning(reason=one.reason, message=one.message) for one in to_tell(found, limits)
    ]
    if unknown:
        warnings.append(_unchecked(unknown, limits))
    return tuple(warnings)


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
