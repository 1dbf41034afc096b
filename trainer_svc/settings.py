"""The trainer's settings: TAILORBIRD_ environment variables, checked at start."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_settings import NoDecode

from tailorbird.devices import Device, auto_device
from tailorbird.import_uri import EVERYONE, is_import_prefix, is_plain_prefix
from tailorbird.names import is_id
from tailorbird.personal_data.settings import ScanSettings
from tailorbird.records.reading import MAX_FILE_BYTES, MAX_RECORD_BYTES
from tailorbird.settings import Port, Rank, wrong_setting
from trainer_svc.database_url import checked_database_url

_MOST_PREFIXES = 4096
_RAY_ADDRESS = r"^((ray://)?([^\s:/\[\]]+|\[[0-9a-fA-F:.]+\]):\d+)?$"
_GPU = re.compile(r"nvidia\d+")


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError(f"it is not JSON: {error}") from error


def _dataset_prefixes(value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    if sum(map(len, value.values())) > _MOST_PREFIXES:
        raise ValueError(f"more than {_MOST_PREFIXES} prefixes")
    for tenant, prefixes in value.items():
        if tenant != EVERYONE and not is_id(tenant):
            raise ValueError(f"{tenant[:80]!r} is neither a tenant's id nor {EVERYONE!r}")
        for prefix in prefixes:
            if not (is_import_prefix if tenant == EVERYONE else is_plain_prefix)(prefix):
                what = "with {tenant} as one part " if tenant == EVERYONE else ""
                raise ValueError(
                    f"{prefix[:200]!r} of {tenant!r} is not a plain file, s3, gs or az URI "
                    f"{what}that ends with a slash"
                )
    return value


def _quotas(value: dict[str, int]) -> dict[str, int]:
    for tenant in value:
        if tenant != EVERYONE and not is_id(tenant):
            raise ValueError(f"{tenant[:80]!r} is neither a tenant's id nor {EVERYONE!r}")
    return value


Quotas = Annotated[
    dict[str, Annotated[int, Field(ge=0)]],
    NoDecode,
    BeforeValidator(_parsed),
    AfterValidator(_quotas),
]
Priorities = Annotated[
    dict[str, Annotated[int, Field(ge=0, le=100)]],
    NoDecode,
    BeforeValidator(_parsed),
    AfterValidator(_quotas),
]


def visible_gpus(
    environ: Mapping[str, str] = os.environ, devices: Path = Path("/dev")
) -> tuple[str, ...]:
    """Return what CUDA calls the GPUs that this process may use: numbers, or identities."""
    asked = environ.get("CUDA_VISIBLE_DEVICES")
    if asked is not None:
        return tuple(each.strip() for each in asked.split(",") if each.strip())
    count = sum(bool(_GPU.fullmatch(each.name)) for each in devices.iterdir())
    return tuple(map(str, range(count)))


def _ray_resources(value: dict[str, float]) -> dict[str, float]:
    for name, amount in value.items():
        if name in {"CPU", "GPU", "memory", "object_store_memory"} or not name.strip():
            raise ValueError(f"{name!r} is no resource of the operator's own")
        if not 0 < amount <= 1e9:
            raise ValueError(f"{amount:g} of {name!r}: more than 0 and at most 1e9 are expected")
    return value


class FurtherBase(BaseModel):
    """A base model beside the default one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Annotated[str, Field(min_length=1)]
    """Local folder or Hugging Face id, as TAILORBIRD_BASE_MODEL."""
    name: str = ""
    """What jobs and manifests call it. Empty: its id, or its folder's name."""
    digest: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")] = ""
    """Digest that it must have, as `tailorbird base digest` prints it. Empty: any."""


class TrainerSettings(ScanSettings):
    """What the trainer reads beyond the common settings."""

    port: Port = 50051
    """gRPC port; 0 takes a free one."""
    metrics_port: Port = 9091
    """Plain HTTP port for /metrics, /livez and /readyz; 0 takes a free one."""
    database_url: Annotated[str, AfterValidator(checked_database_url)] = ""
    """postgresql+asyncpg:// or sqlite+aiosqlite:// URL. Empty: SQLite under data_dir."""
    role: Literal["all", "api", "worker"] = "all"
    """What this process does: answer calls (api), train (worker), or both.

    Several of them share one PostgreSQL and one object store. An api needs no accelerator; a worker
    opens no port but metrics_port. Given as --role as well.
    """
    workers: Annotated[int, Field(ge=1, le=16)] = 1
    """Worker processes. Each holds one base model."""
    more_base_models: Annotated[
        tuple[FurtherBase, ...], NoDecode, BeforeValidator(_parsed), Field(max_length=63)
    ] = ()
    """Base models that jobs may name beside base_model, which is the one of jobs that name none.

    A JSON list of {"model": …, "name": …, "digest": …}; only "model" is needed. A worker is started
    with one when a job asks for it, in place of an idle one where no more may be started.
    """
    base_memory_gib: Annotated[float, Field(gt=0, le=65536)] | None = None
    """GiB of base weights that all workers may hold together, by the size of their files.

    None: no limit but the number of workers. A CPU without bfloat16 instructions takes twice the
    size of a 16-bit checkpoint.
    """
    jobs_per_worker: Annotated[int, Field(ge=1, le=64)] = 8
    """Jobs that a worker trains at a time, in common steps."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where workers train. auto: cuda if the machine has a GPU that torch was built for."""
    gpu_memory_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of a GPU's memory that the workers take together, at most. The rest is serving's."""
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """CPU threads of each worker. 0: the machine's cores shared among the workers."""
    gradient_checkpointing: bool = False
    """Keep the input of each layer alone in a step, and compute the layer again for its gradient:
    more time, less memory. Of use where a long record does not fit into a GPU by itself: a step
    that does not is taken in smaller passes anyway."""
    max_dataset_bytes: Annotated[int, Field(ge=1)] = MAX_FILE_BYTES
    """Largest dataset accepted."""
    dataset_prefixes: Annotated[
        dict[str, tuple[str, ...]],
        NoDecode,
        BeforeValidator(_parsed),
        AfterValidator(_dataset_prefixes),
    ] = Field({})
    """URIs that datasets may be imported from: a JSON object, folders by tenant.

    {"acme": ["s3://acme/train/"]}; each ends with a slash, and what is beneath it may be named.
    Under "*" stand those of every tenant, each with {tenant} where the tenant's id stands.
    Credentials come from the environment, as for the object store. Empty: no URI is read.
    """
    dataset_quota_bytes: Quotas = Field({})
    """Bytes that a tenant's datasets may have together: a JSON object, by tenant.

    {"acme": 10000000000, "*": 1000000000}; "*" stands for every tenant that is not named. Empty: no
    limit.
    """
    dataset_quota_records: Quotas = Field({})
    """Records that a tenant's datasets may have together, as `dataset_quota_bytes`."""
    dataset_cache_bytes: Annotated[int, Field(ge=0)] = 8 * 2**30
    """Tokenised datasets that are kept on local disk for the next job on them."""
    max_record_bytes: Annotated[int, Field(ge=1024)] = MAX_RECORD_BYTES
    """Longest line of a dataset accepted."""
    max_lora_rank: Rank = 64
    """Largest rank accepted while no serving replica has written its profile."""
    personal_data: Literal["off", "scan", "substitute", "redact", "refuse"] = "off"
    """What is done about personal data in every upload; a caller may ask for more, never for less.

    Needs the extra `privacy`, unless off. docs/personal_data.md says what each does.
    """
    progress_interval: Annotated[float, Field(ge=0, le=60)] = 0.5
    """Seconds between two progress events of a job, at least."""
    general_data: Path | None = None
    """JSONL file of general texts and questions that a tuned version must still know.

    See docs/evaluation.md. None: what is left of the base's general ability is not measured.
    """
    safety_lists: Path | None = None
    """JSON file of words and patterns by category that data and answers are screened for.

    See docs/evaluation.md. None: nothing is screened.
    """
    max_worker_losses: Annotated[int, Field(ge=1)] = 3
    """A job whose worker process, or that of its data, died this often fails."""
    worker_silence_seconds: Annotated[float, Field(ge=1, le=3600)] = 120.0
    """A worker process that has said nothing for so many seconds is ended, and counts as lost.

    Below 30, the writing of a large checkpoint may look like silence.

    One that is ready says twelve times in it that it is alive, whatever it computes. Time in which
    the trainer itself stands still does not count.
    """
    max_queued_jobs: Quotas = Field({EVERYONE: 1000})
    """Jobs of a tenant that may wait: a JSON object, by tenant, as `dataset_quota_bytes`.

    One more is refused (TOO_MANY_QUEUED_JOBS).
    """
    max_running_jobs: Quotas = Field({})
    """Jobs of a tenant that may be at work at a time, likewise; more of them wait."""
    max_priority: Priorities = Field({})
    """The highest priority, up to 100, that a tenant's jobs may ask for, likewise; without it 0."""
    max_attempts: Annotated[int, Field(ge=1, le=1000)] = 20
    """A job that is given back this often in a row, without a checkpoint in between, is PAUSED.

    With the reason: what it needs is down. One that lacks memory FAILS. Between two tries it waits
    0.2 s at first and 5 minutes at most, so that 20 of them take about fifty minutes.
    """
    lease_seconds: Annotated[float, Field(ge=1, le=3600)] = 30.0
    """Seconds after which the jobs of a trainer that is not heard of go to another one.

    A trainer is heard of four times in it. The database's clock counts.
    """

    collect_interval_hours: Annotated[float, Field(gt=0, le=8760)] = 1.0
    """Hours between two rounds that remove what nobody needs any more, over all trainers.

    docs/operations.md says what goes.
    """
    collect_grace_hours: Annotated[float, Field(ge=1, le=87600)] = 24.0
    """Hours since checkpoints of ended jobs, uncommitted versions and abandoned uploads were last
    written, after which they go."""
    deleted_versions_days: Annotated[float, Field(ge=1, le=3650)] = 7.0
    """Days since a version was deleted, after which its weights go."""
    job_retention_days: Annotated[float, Field(ge=1, le=36500)] | None = None
    """Days since a job ended, after which it goes with its history. None: never."""
    worker_memory_gib: Annotated[float, Field(gt=0, le=65536)] | None = None
    """GiB of the machine's memory that a worker process may have, with those that it starts.

    A GPU's own memory and files that are mapped do not count. One that takes more is ended. On Ray,
    a worker is placed where so much is free. None: no limit.
    """
    ray_address: Annotated[str, Field(pattern=_RAY_ADDRESS)] = ""
    """Ray cluster that the workers run on. Empty: they are processes of this machine.

    ray://HOST:PORT is a cluster's client server; HOST:PORT the address of one that this machine is
    a node of. Needs the extra `ray`. See docs/ray.md.
    """
    ray_worker_cpus: Annotated[float, Field(gt=0, le=1024)] = 1.0
    """CPU cores that Ray sets aside for a worker."""
    ray_worker_gpus: Annotated[float, Field(ge=0, le=1)] = 0.0
    """GPUs that Ray sets aside for a worker: one, or a share of one that others take as well."""
    ray_worker_resources: Annotated[
        dict[str, float], NoDecode, BeforeValidator(_parsed), AfterValidator(_ray_resources)
    ] = Field({})
    """What else a worker's machine must have, and is taken of it.

    A JSON object of the cluster's own resources: {"accelerator_type:H100": 0.001}.
    """
    ray_data_dir: Path | None = None
    """Folder of each machine of the cluster for its workers' scratch and caches.

    None: the path that data_dir is here.
    """
    ray_room_seconds: Annotated[float, Field(ge=1, le=86400)] = 300.0
    """Seconds to wait until a machine of the cluster has room for a worker, before another try."""
    ray_silence_seconds: Annotated[float, Field(ge=5, le=600)] = 30.0
    """A worker whose machine has not answered for so many seconds counts as lost, and ends itself
    once it has not been asked for twice as many."""

    @model_validator(mode="after")
    def _personal_data_can_be_found(self) -> Self:
        own = self.personal_data_patterns or self.personal_data_kinds
        if self.personal_data == "off" and not own:
            return self
        self.check_scan("personal_data", self.personal_data)
        return self

    @model_validator(mode="after")
    def _parts_meet_in_a_database(self) -> Self:
        if self.role != "all" and not self.database_url.startswith("postgresql"):
            problem = (
                f"without a PostgreSQL in database_url no other process sees what {self.role} does"
            )
            raise wrong_setting("role", problem)
        return self

    @model_validator(mode="after")
    def _cuda_has_gpus(self) -> Self:
        if self.ray_address and self.device == "cuda" and not self.ray_worker_gpus:
            raise ValueError("device is cuda, and ray_worker_gpus sets no GPU aside for a worker")
        return self

    @property
    def database(self) -> str:
        """`database_url`, or the embedded default."""
        path: Path = self.data_dir.resolve() / "trainer.db"
        return self.database_url or f"sqlite+aiosqlite:///{path}"

    @property
    def base_memory_bytes(self) -> float:
        """`base_memory_gib` in bytes; infinite without it."""
        return math.inf if self.base_memory_gib is None else self.base_memory_gib * 2**30

    @property
    def worker_device(self) -> str:
        """`device` with auto resolved."""
        if self.device != "auto":
            return self.device
        if self.ray_address:
            return "cuda" if self.ray_worker_gpus else "cpu"
        return auto_device().name

    @property
    def told_device(self) -> Device:
        """`worker_device`, why, and which GPU is left unused."""
        if self.device != "auto":
            return Device(self.device, "TAILORBIRD_DEVICE says so")
        if self.ray_address:
            return Device(self.worker_device, "TAILORBIRD_RAY_WORKER_GPUS says so")
        return auto_device()

    @property
    def gpus(self) -> tuple[str, ...]:
        """What CUDA calls the GPUs of this machine's workers; () if they are elsewhere or none."""
        return () if self.ray_address or self.worker_device != "cuda" else visible_gpus()

    @property
    def worker_gpu_memory_share(self) -> float:
        """The part of `gpu_memory_share` that one worker may take of its GPU."""
        if self.ray_address:
            return self.gpu_memory_share * (self.ray_worker_gpus or 1)
        return self.gpu_memory_share / math.ceil(self.workers / max(1, len(self.gpus)))

    @property
    def worker_memory_bytes(self) -> int | None:
        """`worker_memory_gib` in bytes."""
        return None if self.worker_memory_gib is None else int(self.worker_memory_gib * 2**30)

    @property
    def worker_threads(self) -> int:
        """`threads` with 0 resolved."""
        if self.ray_address:
            return self.threads or max(1, int(self.ray_worker_cpus))
        cores = len(os.sched_getaffinity(0))
        return self.threads or max(1, cores // self.workers)
