"""What happens to a job: the entries of its history. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from itertools import islice
from operator import not_
from typing import Annotated, Literal

from pydantic import Field

from trainer_svc.jobs.model import Hyperparameters, JobError, JobState
from trainer_svc.jobs.sweep import RungDecided, TrialReached
from trainer_svc.judgement.model import Judgement
from trainer_svc.record import Record


class DataReport(Record):
    """What became of one dataset's records; lines are the first 100.

    kept + dropped_too_long + dropped_nothing_to_train = records.
    """

    records: int
    kept: int
    dropped_too_long: int
    dropped_lines: tuple[int, ...]
    """Of the records that are too long, and of no others."""
    trained_tokens: int
    masked_tokens: int
    truncated: int = 0
    """Those cut before their first trained token are in dropped_nothing_to_train as well."""
    truncated_lines: tuple[int, ...] = ()
    dropped_nothing_to_train: int = 0
    nothing_to_train_lines: tuple[int, ...] = ()

    @property
    def too_long(self) -> int:
        """Records longer than the limit, whatever became of them."""
        return self.dropped_too_long + self.truncated


class StateChanged(Record):
    """The job's state changed."""

    kind: Literal["state_changed"] = "state_changed"
    state: JobState
    error: JobError | None = None


class Prepared(Record):
    """The data is read and every choice is made: no hyperparameter is None."""

    kind: Literal["prepared"] = "prepared"
    training: DataReport
    validation: DataReport | None
    hyperparameters: Hyperparameters
    reasons: dict[str, str] = Field(default_factory=dict)
    """Why each value that was left open was chosen, by the name of the hyperparameter."""
    total_steps: int
    trainable_parameters: int


class StepProgress(Record):
    """An optimizer step was taken."""

    kind: Literal["step_progress"] = "step_progress"
    step: int
    total_steps: int
    epoch: float
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    tokens_per_second: float
    eta_seconds: float
    update_to_weight_ratio: float | None = None
    """None as well where it is no number."""
    worker_memory_bytes: int | None = None


class Evaluation(Record):
    """A validation loss was computed, in nats per trained token.

    Step 0 is the base itself, or `version`, which a job trains on from.
    """

    kind: Literal["evaluation"] = "evaluation"
    step: int
    validation_loss: float
    perplexity: float
    version: str = Field(default="", exclude_if=not_)
    gap: float | None = None
    """The loss less the mean training loss of the steps since the previous evaluation."""


class Judged(Record):
    """The version was judged on held-out records; without samples, which its report has."""

    kind: Literal["judged"] = "judged"
    judgement: Judgement


class CheckpointSaved(Record):
    """A checkpoint is complete in the object store."""

    kind: Literal["checkpoint_saved"] = "checkpoint_saved"
    step: int


class Resumed(Record):
    """The run goes on from the checkpoint at `resumed_from_step`; 0 is the beginning."""

    kind: Literal["resumed"] = "resumed"
    resumed_from_step: int
    lease_epoch: int


class Published(Record):
    """The version exists."""

    kind: Literal["published"] = "published"
    version: str
    promoted: bool
    route_generation: int
    promotion_refusal: str = ""


class JobWarning(Record):
    """Something the caller should know that does not end the job."""

    kind: Literal["warning"] = "warning"
    reason: str
    message: str


EventPayload = Annotated[
    StateChanged
    | Prepared
    | StepProgress
    | Evaluation
    | Judged
    | CheckpointSaved
    | Resumed
    | Published
    | JobWarning
    | TrialReached
    | RungDecided,
    Field(discriminator="kind"),
]


class Unknown(Record):
    """An event of a later release: it has its place in the history, and nothing to show here."""

    kind: str = ""


class JobEvent(Record):
    """One entry of a job's history; sequences run 1, 2, 3, ... without gaps."""

    sequence: int
    time: datetime
    payload: Annotated[EventPayload | Unknown, Field(union_mode="left_to_right")]


def created_with(history: Iterable[JobEvent]) -> tuple[JobWarning, ...]:
    """Return the warnings of a job's creation: those that follow its first event at once."""
    found: list[JobWarning] = []
    for event in islice(history, 1, None):
        if not isinstance(event.payload, JobWarning):
            break
        found.append(event.payload)
    return tuple(found)
