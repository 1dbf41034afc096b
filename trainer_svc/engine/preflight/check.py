"""The preparation of a job, and what it comes to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from tailorbird.object_store import ObjectStore
from trainer_svc.engine.data.cache import DatasetCache
from trainer_svc.engine.data.files import DatasetFiles
from trainer_svc.engine.data.tokens import TokenDataset
from trainer_svc.engine.judging.records import check_judged
from trainer_svc.engine.preparation import Preparation, PreparedFor, Preparer
from trainer_svc.jobs.events import DataReport
from trainer_svc.jobs.held_out import TRIALS_COMPARED, no_validation
from trainer_svc.jobs.preflight import CheckedData, Preflight, TokenBin
from trainer_svc.protocol import Assignment

_FIRST = 16
"""The first bin ends here, and each has twice the room of the one before."""


async def check(
    assignment: Assignment,
    base: PreparedFor,
    store: ObjectStore,
    cache: DatasetCache,
    folder: Path,
) -> Preflight:
    """Prepare the data and return what came of it; files lie in `folder` meanwhile.

    Raises whatever a worker's preparation of the same job raises: what Preparer.prepare does,
    FailedPrecondition (NO_VALIDATION_DATA) for a sweep without, and what `check_judged` does.
    """
    files = DatasetFiles(store, cache)
    data = await Preparer(base, files, cache, apart=False).prepare(assignment, folder)
    if assignment.sweep is not None and not data.validation:
        raise no_validation(TRIALS_COMPARED, data.training_report.kept)
    await check_judged(files, assignment, data.chosen, folder, base.tokenizer, base.context)
    return _told(assignment, data)


def _told(assignment: Assignment, data: Preparation) -> Preflight:
    validation, report = data.validation, data.validation_report
    held_out = assignment.validation is None and report is not None
    elsewhere = report.records if held_out and report is not None else 0
    return Preflight(
        training=_data(data.training, data.training_report, elsewhere),
        validation=_data(validation, report, 0) if validation and report is not None else None,
        held_out=held_out,
        hyperparameters=data.choice.hyperparameters,
        reasons=data.choice.reasons,
        total_steps=data.choice.plan.total_steps,
        warnings=tuple(data.warnings),
    )


def _data(examples: TokenDataset, report: DataReport, elsewhere: int) -> CheckedData:
    """Return what is known of a file, `elsewhere` of whose records are of the other part."""
    lengths = examples.lengths
    return CheckedData(
        account=report,
        too_long_fraction=report.too_long / (report.records + elsewhere),
        median=int(np.median(lengths)),
        longest=int(lengths.max()),
        lengths=histogram(lengths),
    )


def histogram(lengths: npt.NDArray[np.int32]) -> tuple[TokenBin, ...]:
    """Return how many of `lengths` lie in which bin."""
    bounds = [0, _FIRST]
    while bounds[-1] <= lengths.max():
        bounds.append(2 * bounds[-1])
    counts, _ = np.histogram(lengths, bounds)
    return tuple(
        TokenBin(at_least=low, below=high, sequences=count)
        for low, high, count in zip(bounds, bounds[1:], counts.tolist(), strict=False)
        if count
    )
