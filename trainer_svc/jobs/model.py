"""What a job is: its specification, its states, what happens to it. Pure."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from operator import not_
from typing import Annotated, Literal

from pydantic import Field

from tailorbird.names import AdapterName, JobName, SweepName
from trainer_svc.datasets.report.limits import DataLimits
from trainer_svc.jobs.sweep import RungDecided, SweepResults, SweepSpec, TrialReached
from trainer_svc.judgement.model import EvaluationSpec, Judgement
from trainer_svc.record import Record


class JobState(StrEnum):
    """See `tailorbird.tuning.v1.JobState`; UNSPECIFIED is a state that a later release wrote."""

    QUEUED = "QUEUED"
    PREPARING = "PREPARING"
    RUNNING = "RUNNING"
    EVALUATING = "EVALUATING"
    PUBLISHING = "PUBLISHING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    PAUSED = "PAUSED"
    UNSPECIFIED = "UNSPECIFIED"

    @classmethod
    def _missing_(cls, value: object) -> JobState:
        return _OF_SWEEP.get(str(value), cls.UNSPECIFIED)


TERMINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
WAITING = frozenset({JobState.QUEUED, JobState.PAUSED})
_OF_SWEEP = {f"{state}_SWEEP": state for state in WAITING}
ACTIVE = frozenset(JobState) - TERMINAL - WAITING - {JobState.UNSPECIFIED}


def stored_state(state: JobState, *, sweep: bool) -> str:
    """Return what the job store has for a state.

    A sweep waits under names of its own: a release that knows of none would take it from the queue
    for one job, and publish what no caller asked for.
    """
    return f"{state}_SWEEP" if sweep and state in WAITING else state.value


_FORWARD = {
    JobState.QUEUED: {JobState.PREPARING, JobState.PAUSED},
    JobState.PAUSED: {JobState.QUEUED},
    JobState.PREPARING: {JobState.RUNNING},
    JobState.RUNNING: {JobState.EVALUATING},
    JobState.EVALUATING: {JobState.PUBLISHING},
    JobState.PUBLISHING: {JobState.SUCCEEDED},
}


def may_follow(before: JobState, after: JobState) -> bool:
    """Tell whether `after` may follow `before`.

    Any state that is not terminal may fail or be cancelled, and an active one goes back to QUEUED
    when its holder is lost, or to PAUSED when its holder lets go of it.
    """
    if before in TERMINAL or before is JobState.UNSPECIFIED:
        return False
    if after in {JobState.FAILED, JobState.CANCELLED}:
        return True
    if after in WAITING and before in ACTIVE:
        return True
    return after in _FORWARD[before]


class PromotionPolicy(StrEnum):
    """What happens to the route when a version has been published.

    A policy of a later release is read as MANUAL: nothing moves that this one does not understand.
    """

    ALWAYS = "ALWAYS"
    MANUAL = "MANUAL"
    AUTO_IF_BETTER = "AUTO_IF_BETTER"

    @classmethod
    def _missing_(cls, _: object) -> PromotionPolicy:
        return cls.MANUAL


class Isolation(StrEnum):
    """Whom a job shares its worker with; one of a later release is read as EXCLUSIVE."""

    SHARED = "SHARED"
    EXCLUSIVE = "EXCLUSIVE"

    @classmethod
    def _missing_(cls, _: object) -> Isolation:
        return cls.EXCLUSIVE


class LoraSpec(Record):
    """The low-rank update, every choice made; `target_modules` () means every linear layer."""

    rank: int = 16
    alpha: float = 32.0
    target_modules: tuple[str, ...] = ()
    use_rslora: bool = False
    dropout: float = 0.0


class AskedLora(Record):
    """What a caller says of the low-rank update; what is None, () or False is left out."""

    rank: int | None = None
    alpha: float | None = None
    target_modules: tuple[str, ...] = ()
    use_rslora: bool = False
    dropout: float = 0.0

    def chosen(self) -> LoraSpec:
        """Return what a job with fresh weights trains; alpha is twice the rank."""
        rank = LoraSpec().rank if self.rank is None else self.rank
        return LoraSpec(
            rank=rank,
            alpha=2.0 * rank if self.alpha is None else self.alpha,
            target_modules=self.target_modules,
            use_rslora=self.use_rslora,
            dropout=self.dropout,
        )


class Hyperparameters(Record):
    """The training run; None is "auto", which the engine resolves once it has read the data.

    The meaning, unit and range of each field stand in job.proto.
    """

    learning_rate: float | None = None
    epochs: int | None = None
    batch_tokens: int | None = None
    max_sequence_length: int | None = None
    warmup_ratio: float | None = None
    weight_decay: float | None = None
    seed: int | None = None
    evaluation_interval: int | None = None
    checkpoint_interval: int | None = None
    early_stopping_patience: int | None = None
    """Evaluations without a better validation loss after which the run stops; 0: it never does."""


class TooLong(StrEnum):
    """What becomes of a record that is too long; a rule of a later release is read as ERROR."""

    TRUNCATE = "TRUNCATE"
    DROP = "DROP"
    ERROR = "ERROR"

    @classmethod
    def _missing_(cls, _: object) -> TooLong:
        return cls.ERROR


class DataPolicy(Record):
    """What a job does with its data. The defaults are what jobs of earlier releases did."""

    too_long: TooLong = TooLong.DROP
    max_too_long_fraction: float = 1.0
    """The largest share of a dataset's records that may be too long; 1: every one of them."""


USUAL_TOO_LONG_FRACTION = 0.1
"""What a caller of this release gets that names no share."""


class JobSpec(Record):
    """What the caller asked for. Names are resource names, of the job's own tenant."""

    base_model: str
    base_model_digest: str = ""
    """Of the weights and the tokenizer that the name stood for; "" in jobs of earlier releases."""
    training_dataset: str
    validation_dataset: str | None = None
    validation_fraction: float | None = None
    adapter: str
    lora: LoraSpec = LoraSpec()
    hyperparameters: Hyperparameters = Hyperparameters()
    promotion_policy: PromotionPolicy = PromotionPolicy.ALWAYS
    isolation: Isolation = Isolation.SHARED
    from_version: str = ""
    """The version whose weights training begins with; `lora` is of its shape."""
    evaluation: EvaluationSpec = EvaluationSpec()
    sweep: SweepSpec | None = None
    """The trials that this is the common part of; None in a job of its own."""
    labels: dict[str, str] = Field(default_factory=dict)
    data: DataPolicy = DataPolicy()
    data_limits: DataLimits = DataLimits()

    @property
    def adapter_name(self) -> AdapterName:
        """The adapter that gets a new version."""
        return AdapterName.parse(self.adapter, "job.spec.adapter")

    def sha256(self) -> str:
        """Return the digest of the canonical specification, 64 hex digits.

        What has its default is left out: a field that a later release adds changes no digest. So is
        the base's digest, which an earlier release does not know: checkpoints have it beside this.
        And so is the usual limit of what is too long: a caller who asks an earlier release for the
        same job names none.
        """
        spec = self
        if spec.data.max_too_long_fraction == USUAL_TOO_LONG_FRACTION:
            data = spec.data.model_copy(update={"max_too_long_fraction": 1.0})
            spec = spec.model_copy(update={"data": data})
        chosen = spec.model_dump(mode="json", exclude_defaults=True, exclude={"base_model_digest"})
        canonical = json.dumps(chosen, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


class JobError(Record):
    """Why a job failed, or was paused by the trainer itself."""

    reason: str
    message: str
    metadata: dict[str, str] = Field(default_factory=dict)


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


class Progress(Record):
    """The latest figures of a run."""

    step: int = 0
    total_steps: int = 0
    loss: float | None = None
    validation_loss: float | None = None


class Job(Record):
    """One fine-tuning job as the store has it.

    `error` says why it FAILED, or why the trainer PAUSED it by itself.
    """

    name: JobName
    spec: JobSpec
    state: JobState
    create_time: datetime
    start_time: datetime | None = None
    end_time: datetime | None = None
    error: JobError | None = None
    progress: Progress | None = None
    effective_hyperparameters: Hyperparameters | None = None
    version: str = ""
    promoted: bool = False
    promotion_refusal: str = ""
    lease_epoch: int = 0
    cancel_requested: bool = False
    pause_requested: bool = False
    sweep: SweepResults | None = None
    """How far the trials of a sweep came."""

    @property
    def sweep_name(self) -> SweepName | None:
        """The sweep that the job carries out, if it does."""
        return None if self.spec.sweep is None else SweepName(self.name.tenant, self.name.job)


@dataclass(frozen=True, slots=True)
class Left:
    """What a job that has ended without a version may have left in the object store.

    `version` is the name of the version allocated for its last upload, or "".
    """

    job: JobName
    version: str
