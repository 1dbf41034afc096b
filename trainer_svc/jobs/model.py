"""What a job is: its specification, its states, what happens to it. Pure."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from pydantic import Field

from tailorbird.names import AdapterName, JobName, SweepName
from trainer_svc.datasets.report.limits import DataLimits
from trainer_svc.jobs.sweep import SweepResults, SweepSpec
from trainer_svc.judgement.model import EvaluationSpec
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
ACTIVE = frozenset(JobState) - TERMINAL - WAITING - {JobState.UNSPECIFIED}
_OF_SWEEP = {f"{state}_SWEEP": state for state in WAITING | ACTIVE}


def stored_state(state: JobState, *, sweep: bool) -> str:
    """Return what the job store has for a state.

    A sweep that has not ended has names of its own: a release that knows of none would put one that
    its predecessor lost back into the queue, take it for one job, and publish what no caller asked
    for.
    """
    return f"{state}_SWEEP" if sweep and state not in TERMINAL else state.value


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
    priority: int = 0
    """Jobs of a higher one are claimed first, whosesoever they are; see TenantLimits."""
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


class Faults(Record):
    """What went wrong with a job that goes on all the same, under all of its leases."""

    attempts: int = 0
    """Leases in a row, since its last checkpoint, that ended for want of something."""
    worker_losses: int = 0
    """Workers that died while it was trained or judged, or was alone with one."""
    data_losses: int = 0
    """Processes of its data that died."""
    publications: int = 0
    """Tries to write its committed version that failed."""
    alone: bool = False
    """Whether it may have taken what others lacked, and gets its next worker for itself."""


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
    faults: Faults = Faults()

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
