"""What asking for a job and asking for a sweep have in common, whichever client asks."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from tailorbird.channel import TIMEOUT
from tailorbird.tuning.v1 import dataset_pb2, job_pb2, preflight_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as tuning

_CHECK_TIMEOUT = 3600.0
"""All of the data is read, after that of others: the trainer gives up before."""


def id_of(given: str, *, validate_only: bool) -> str:
    """Return an id by which the trainer knows the same request when it comes again."""
    return given or ("" if validate_only else uuid.uuid4().hex)


def patience_for(spec: job_pb2.JobSpec, *, validate_only: bool) -> float | None:
    """Return the seconds that it may take to accept a specification; None: no limit.

    Data that is named by a URI is read first.
    """
    if "://" in spec.training_dataset + spec.validation_dataset:
        return None
    return _CHECK_TIMEOUT if validate_only else TIMEOUT


def tell(
    response: tuning.CreateJobResponse | tuning.CreateSweepResponse,
    warned: Callable[[dataset_pb2.DataWarning], None] | None,
    checked: Callable[[preflight_pb2.Preflight], None] | None,
) -> None:
    """Tell who listens what the trainer says of the data, and of a job that is checked only."""
    if warned is not None:
        for warning in response.warnings:
            warned(warning)
    if checked is not None and response.HasField("preflight"):
        checked(response.preflight)
