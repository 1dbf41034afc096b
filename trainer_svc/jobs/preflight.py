"""What a job would do with its data, found out before it exists. Pure."""

from __future__ import annotations

from typing import Protocol

from trainer_svc.jobs.events import DataReport, JobWarning
from trainer_svc.jobs.model import Hyperparameters, Job
from trainer_svc.record import Record


class TokenBin(Record):
    """Sequences of `at_least` and fewer than `below` tokens."""

    at_least: int
    below: int
    sequences: int


class CheckedData(Record):
    """A dataset, or what is held out of it, as the job would train or validate on it.

    A record is one sequence, or several where serving would tokenise its prompts otherwise.
    `lengths` are of what is kept, as it is cut: the bins that are not empty, in order.
    """

    account: DataReport
    too_long_fraction: float
    """Of all records of the file: what `data.max_too_long_fraction` bounds."""
    median: int
    longest: int
    lengths: tuple[TokenBin, ...]


class Preflight(Record):
    """What the preparation of a job comes to: every choice is made, no hyperparameter is None.

    `held_out`: the validation data is a part of the training dataset. Of a sweep, what its trials
    have in common.
    """

    training: CheckedData
    validation: CheckedData | None
    held_out: bool
    hyperparameters: Hyperparameters
    reasons: dict[str, str]
    total_steps: int
    warnings: tuple[JobWarning, ...] = ()


class Checks(Protocol):
    """Where a job's data is prepared before the job exists."""

    async def check(self, job: Job) -> Preflight:
        """Return what comes of it; raises what the job's preparation would end with."""
