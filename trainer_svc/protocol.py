"""What the service and a worker process say to each other, one JSON object a line.

The worker has one socket, whose file descriptor is its only argument. It reads commands from it and
writes reports to it; when the other end closes, the worker exits at once.

    service                                    worker
                                            <- Ready             once, when the base is loaded
                                            <- Unusable          instead, and then it exits
                                            <- Alive*            again and again from then on
    Start(assignment)                       -> Reported(...)*    prepared, steps, checkpoints, ...
                                            <- Evaluating
                                            <- Trained           the files are ready on local disk
    Upload(version)                         ->
                                            <- Uploaded(manifest) every file but the manifest is up
    Cancel                                  -> Cancelled         at the next step boundary
    Suspend                                 -> Suspended         after a checkpoint there
                                            <- Failed            at any time; the worker lives on

A worker has many jobs at a time. Every message but the first three carries the job and the epoch of
the lease it belongs to; whoever does not hold that lease drops it. One of Uploaded, Cancelled,
Suspended and Failed is the last that is heard of a lease.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from tailorbird.manifest import AdapterManifest
from tailorbird.store_patience import RETRY_SECONDS
from trainer_svc.datasets.personal_data import PersonalDataReport
from trainer_svc.jobs.events import EventPayload, JobWarning
from trainer_svc.jobs.model import DataPolicy, Hyperparameters, JobError, LoraSpec
from trainer_svc.jobs.preflight import Preflight
from trainer_svc.jobs.sweep import SweepResults, SweepSpec
from trainer_svc.judgement.model import EvaluationSpec
from trainer_svc.record import Record

OUT_OF_MEMORY = "OUT_OF_MEMORY"
"""Why a job failed whose worker had no memory for it; retryable if it was not alone there."""
TOKENISING_LOST = "TOKENISING_LOST"
"""Why a job failed whose data was being tokenised; its worker lives on. Also of a check of data."""


class LeaseKey(Record):
    """One lease of one job: the job's resource name, and the epoch."""

    job: str
    epoch: int


class WorkerSettings(Record):
    """What a worker is started with: the first line on its socket."""

    kind: Literal["settings"] = "settings"
    object_store: str
    store_retry_timeout: float = RETRY_SECONDS
    """Seconds for which a request that the object store fails is tried again."""
    base_model_path: str
    base_model_name: str
    base_model_digest: str
    chat_template_digest: str
    device: str
    """ "cpu" or "cuda"."""
    gpu_memory_share: float = 1.0
    """Share of the GPU's memory that this worker may take."""
    gradient_checkpointing: bool = False
    """Compute each layer again for its gradient, instead of keeping what is inside it."""
    threads: int
    """CPU threads for the model's arithmetic."""
    scratch_dir: str
    """Folder of this worker alone; emptied at start."""
    cache_dir: str
    """Folder of tokenised datasets, for all workers of the machine; it outlives them."""
    cache_bytes: int
    """Bytes that it may hold; what is in use may be more."""
    general_data: str = ""
    """Path of the file that `read_general` reads; "": none."""
    safety_lists: str = ""
    """Words and patterns by category, as `SafetyScreen` reads them; "": none."""
    silence_seconds: float | None = None
    """A worker that is ready and says nothing for so long counts as lost: it says Alive twelve
    times in it. None: nobody counts, and it does not."""
    progress_interval: float
    """Seconds between two StepProgress reports, at least; the first and last step always report."""
    log_format: Literal["auto", "console", "json"] = "json"
    log_level: str = "info"


class DatasetRef(Record):
    """A stored dataset, in the object store under `key`."""

    name: str
    key: str
    sha256: str
    format: Literal["chat", "prompt_completion", "instruction", "text"]
    personal_data: PersonalDataReport | None = None
    """What was found at its upload, for the version's report; None: nothing was looked for."""
    index_key: str = ""
    """Of its digests in the object store; "": its release stored none."""


class AncestorRef(Record):
    """A version that a job's weights come from, and the data that it was trained on."""

    version: str
    dataset: str = ""
    """ "": it is not known what it was trained on."""
    sha256: str = ""
    index_key: str = ""
    """Of that data's digests in the object store; "": none are left."""
    held_out_records: int | None = None
    """Of that data, not trained; None of earlier releases."""
    seed: int | None = None
    """What these were drawn by, where it was asked for and is known."""


class SweepAssignment(Record):
    """The trials of a job that is a sweep, and how far they came under earlier leases."""

    spec: SweepSpec
    results: SweepResults
    at_once: int
    """Trials that may be attached to the base at a time."""


class Assignment(Record):
    """One job for a worker, under one lease."""

    lease: LeaseKey
    base_model_digest: str
    """The base it must be trained on; a worker that holds another refuses it."""
    adapter: str
    training: DatasetRef
    validation: DatasetRef | None
    validation_fraction: float | None
    lora: LoraSpec
    hyperparameters: Hyperparameters
    spec_sha256: str
    parent_version: str
    """The version it trains on from; else the one routed when the job was assigned, or ""."""
    from_version: str = ""
    """The version whose weights training begins with; "": fresh ones."""
    ancestors: tuple[AncestorRef, ...] = ()
    """That version and those before it, as far as they are looked at, nearest first."""
    evaluation: EvaluationSpec = EvaluationSpec()
    hold_out: bool = False
    """Hold some training records out where there is no validation data and they are enough."""
    promoted_always: bool = False
    """Whatever is found out about it, as the report says then."""
    data: DataPolicy = DataPolicy()
    data_warnings: tuple[JobWarning, ...] = ()
    """What the job was warned of at its creation, for the version's report."""
    sweep: SweepAssignment | None = None
    """Its trials, if it is a sweep; `lora` and `hyperparameters` are what they have in common."""


class Start(Record):
    """Train this, from its newest whole checkpoint if it has one."""

    kind: Literal["start"] = "start"
    assignment: Assignment

    @property
    def lease(self) -> LeaseKey:
        """The lease it is trained under."""
        return self.assignment.lease


class Upload(Record):
    """Upload the trained adapter's files, all but the manifest, as the version with this id."""

    kind: Literal["upload"] = "upload"
    lease: LeaseKey
    version: str


class Cancel(Record):
    """Stop the job at the next step boundary and forget it."""

    kind: Literal["cancel"] = "cancel"
    lease: LeaseKey


class Suspend(Record):
    """Checkpoint at the next step boundary, then stop."""

    kind: Literal["suspend"] = "suspend"
    lease: LeaseKey


Command = Annotated[Start | Upload | Cancel | Suspend, Field(discriminator="kind")]


class Ready(Record):
    """The base is loaded; what it is trained with is chosen. See GetTrainerInfo's Engine."""

    kind: Literal["ready"] = "ready"
    device: str
    dtype: str
    compute_dtype: str
    attention: str
    optimizer: str
    gradient_checkpointing: bool


class Unusable(Record):
    """The base cannot be loaded; another worker would fare no better."""

    kind: Literal["unusable"] = "unusable"
    error: JobError


class Alive(Record):
    """The process runs. Said while nothing else waits to be said; it is of no lease."""

    kind: Literal["alive"] = "alive"


class Reported(Record):
    """An entry for the job's history."""

    kind: Literal["reported"] = "reported"
    lease: LeaseKey
    event: EventPayload


class Evaluating(Record):
    """The last step is taken; the final validation and the probes are computed."""

    kind: Literal["evaluating"] = "evaluating"
    lease: LeaseKey


class Trained(Record):
    """The adapter's files are on local disk and wait for a version."""

    kind: Literal["trained"] = "trained"
    lease: LeaseKey


class Uploaded(Record):
    """Every file is in the object store under the version; this manifest describes them."""

    kind: Literal["uploaded"] = "uploaded"
    lease: LeaseKey
    manifest: AdapterManifest


class Cancelled(Record):
    """The job is stopped."""

    kind: Literal["cancelled"] = "cancelled"
    lease: LeaseKey


class Suspended(Record):
    """The job is stopped and will go on from its last checkpoint.

    `error` says why, where nobody asked for it: somebody must make room before the job goes on.
    """

    kind: Literal["suspended"] = "suspended"
    lease: LeaseKey
    error: JobError | None = None


class Failed(Record):
    """The job cannot go on.

    `retryable`: nothing is known to be wrong with it; a store was down, or others had the memory.
    """

    kind: Literal["failed"] = "failed"
    lease: LeaseKey
    error: JobError
    retryable: bool = False


class Lost(Record):
    """The worker is gone: the last line of a process that stands for one on another machine.

    Its fields are WorkerLost's.
    """

    kind: Literal["lost"] = "lost"
    message: str
    reason: str
    from_outside: bool
    printed: str = ""


class Check(Record):
    """Prepare the data of this as a worker with these settings would, and train nothing.

    For a process of its own, `trainer_svc.engine.preflight`. There is no lease; its epoch is 0.
    """

    settings: WorkerSettings
    assignment: Assignment


class Checked(Record):
    """What came of it, the only answer: the preflight, or the error that the job would end with.

    `kind` is the name of the error's class.
    """

    preflight: Preflight | None = None
    kind: str = ""
    error: JobError | None = None


Report = Annotated[
    Ready | Unusable | Reported | Evaluating | Trained | Uploaded | Cancelled | Suspended | Failed,
    Field(discriminator="kind"),
]

COMMAND: TypeAdapter[Start | Upload | Cancel | Suspend] = TypeAdapter(Command)
REPORT: TypeAdapter[
    Alive
    | Ready
    | Unusable
    | Reported
    | Evaluating
    | Trained
    | Uploaded
    | Cancelled
    | Suspended
    | Failed
] = TypeAdapter(Annotated[Alive | Report, Field(discriminator="kind")])
"""Whatever a worker says: a Report, or that it is alive."""


def encode(message: Record) -> bytes:
    """Return the line for `message`, its newline included."""
    return message.model_dump_json().encode() + b"\n"
