"""Serving's settings: TAILORBIRD_ environment variables, checked at start.

The members of a list are separated by commas.
"""

from __future__ import annotations

import re
import socket
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_settings import NoDecode

from tailorbird.errors import InvalidArgument
from tailorbird.import_uri import is_import_prefix
from tailorbird.names import AdapterName, VersionName, check_id
from tailorbird.personal_data.settings import ScanSettings
from tailorbird.settings import Port, Rank, wrong_setting

_EVERY_TENANT = "*"
_REPLICA = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?")


def _members(value: Any) -> Any:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _import_prefix(prefix: str) -> str:
    if not is_import_prefix(prefix):
        raise ValueError(
            f"{prefix!r} is not a URI like s3://bucket/adapters/{{tenant}}/ of a file, s3, gs or "
            "az store: {tenant}, which keeps tenants apart, stands once and ends a part, a slash "
            "ends the prefix, and nothing in it is encoded"
        )
    return prefix


def _tenant(name: str) -> str:
    try:
        return name if name == _EVERY_TENANT else check_id("tenant", name)
    except InvalidArgument as error:
        raise ValueError(error.description) from error


def _warmed(name: str) -> str:
    try:
        (VersionName if "/versions/" in name else AdapterName).parse(name)
    except InvalidArgument as error:
        raise ValueError(f"{name!r} is not the name of an adapter or a version: {error}") from error
    return name


def _replica(name: str) -> str:
    if not _REPLICA.fullmatch(name):
        raise ValueError(
            f"replica {name!r} must be 1 to 63 letters, digits, '-' or '.', and begin and end with "
            "a letter or digit"
        )
    return name


def _host_name() -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:63].strip("-.") or "replica"


class ServingSettings(ScanSettings):
    """What serving reads beside the common settings."""

    port: Port = 50052
    """gRPC port; 0 takes a free one."""
    metrics_port: Port = 9092
    """Plain HTTP port for /metrics, /livez and /readyz; 0 takes a free one."""
    replica: Annotated[str, AfterValidator(_replica)] = Field(default_factory=_host_name)
    """What this replica calls itself, in ListResidency and in its hot list. The host's name."""

    # The engine.
    max_model_len: Annotated[int, Field(ge=2)] | None = None
    """Prompt and answer together, in tokens. None: the base model's context."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Number format of the weights. auto: the base model's own, or what vLLM takes in its place."""
    tensor_parallel_size: Annotated[int, Field(ge=1, le=64)] = 1
    """Devices that one engine splits the model over; must divide its attention heads."""
    kv_cache_gib: Annotated[int, Field(ge=1)] = 1
    """Memory for the key-value cache on a CPU, in GiB. VLLM_CPU_KVCACHE_SPACE goes before it."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of a GPU's memory that the engine takes: weights, slots and key-value cache."""
    enforce_eager: bool | None = None
    """Run the model without compiling it. None: on a CPU yes, on a GPU no."""
    max_running: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Requests in the engine at the same time. None: 128 on a CPU, 256 on a GPU."""
    max_step_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Tokens of prompts and answers in one step of the engine; a longer prompt takes several.

    Fewer keep streams even beside long prompts, more read prompts faster. At least max_running.
    None: 256 on a CPU, vLLM's choice on a GPU.
    """
    tool_call_parser: Annotated[str, Field(pattern=r"^[a-z0-9_.-]{1,64}$")] | None = None
    """vLLM's parser for the base's tool calls, like hermes or llama3_json. None: no tools."""

    # Adapter slots: engine/plan.py does the arithmetic.
    adapter_slots: Annotated[int, Field(ge=1, le=256)] | None = None
    """Adapters the engine holds at the same time. None: as many as the budget has room for."""
    adapter_memory_gib: Annotated[float, Field(gt=0, le=1024)] | None = None
    """Memory for adapters, in GiB of each device. None: a quarter of what the base leaves."""
    max_cpu_loras: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Adapters that the engine keeps in host memory, those in slots among them.

    One that is kept takes a slot without being read or probed again. None: eight for each slot, as
    far as they fit into adapter_memory_gib (on a GPU into a quarter of the host's free memory).
    """
    max_lora_rank: Rank = 64
    """Largest rank served. A slot's memory grows with it, whatever the adapter's own rank.

    64 is the largest that fine-tuning of one customer's data asks for (LoRA Without Regret); 128
    doubles every slot.
    """

    # Adapters on disk and their way there.
    adapter_cache_bytes: Annotated[int, Field(ge=1)] = 10 * 2**30
    """Adapters on local disk, those in the engine among them, in bytes."""
    max_adapter_bytes: Annotated[int, Field(ge=1)] = 2 * 2**30
    """Largest adapter_model.safetensors accepted, in bytes; imported ones too."""
    adapter_fetches: Annotated[int, Field(ge=1, le=64)] = 4
    """Adapters downloaded and checked at the same time."""
    fetch_stall_timeout: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """Seconds without a byte after which a download is given up, to be tried again."""
    import_prefixes: Annotated[
        tuple[Annotated[str, AfterValidator(_import_prefix)], ...],
        NoDecode,
        BeforeValidator(_members),
        Field(max_length=64),
    ] = ()
    """URIs that ImportAdapter may read under, each with {tenant} where the tenant's id stands."""
    warm: Annotated[
        tuple[Annotated[str, AfterValidator(_warmed)], ...],
        NoDecode,
        BeforeValidator(_members),
        Field(max_length=1024),
    ] = ()
    """Adapters (their routed version) and versions that are loaded at start, by resource name."""
    route_poll_interval: Annotated[float, Field(gt=0, le=60)] = 2.0
    """Seconds between two looks at the route of an adapter with traffic, at most; jittered down."""

    # The queue, and what one tenant may take of it (on each replica).
    max_waiting: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    """Requests that wait for a slot or a place in the engine; the next one is refused."""
    tenant_max_running: Annotated[int, Field(ge=1)] | None = None
    """Requests of one tenant in the engine at the same time. None: max_running."""
    tenant_max_waiting: Annotated[int, Field(ge=1)] | None = None
    """Requests of one tenant that wait. None: max_waiting."""
    tenant_requests_per_second: Annotated[float, Field(gt=0)] | None = None
    """Requests of one tenant admitted a second, with a burst of one second. None: no limit."""
    tenant_tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    """Tokens of one tenant a minute, prompts and answers. None: no limit."""
    fair_quantum_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    """Tokens a tenant is granted in each round of the queue. Smaller takes turns more often.

    So many has an adapter in its slot too, beside the requests that waited for it, if others wait.
    """
    slot_quantum_tokens: Annotated[int, Field(ge=1, le=10_000_000)] = 1024
    """Tokens after which an adapter that others wait for admits nobody more to its slot at all."""

    # Feedback that callers record, for a later training.
    feedback_tenants: Annotated[
        tuple[Annotated[str, AfterValidator(_tenant)], ...],
        NoDecode,
        BeforeValidator(_members),
        Field(max_length=1024),
    ] = ()
    """Tenants whose callers may record feedback, by id; * for every one. Empty: none.

    Needs the extra `privacy`. docs/feedback.md says what is kept.
    """
    feedback_personal_data: Literal["redact", "substitute"] = "redact"
    """What takes the place of personal data in feedback: a mark like <EMAIL>, or a stand-in."""
    feedback_max_record_bytes: Annotated[int, Field(ge=1024, le=2**20)] = 2**18
    """Longest record of feedback, in bytes; not above the trainer's max_record_bytes."""
    feedback_records_per_day: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Records of feedback that a tenant may have of one day (UTC)."""

    # Giving up, and coming back.
    stream_stall_timeout: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    """Seconds that a caller may leave its answer unread before its generation is aborted."""
    stall_timeout: Annotated[float, Field(ge=5, le=3600)] = 120.0
    """Seconds without output, while busy, after which the engine counts as stalled.

    One step gives no output for as long as its prompts take: thousands of tokens of a model with
    billions of parameters are a minute on a CPU.
    """
    engine_restart_backoff_max: Annotated[float, Field(ge=1, le=3600)] = 60.0
    """Longest wait between two starts of the engine, in seconds; it doubles from one second."""
    metrics_tenants: Annotated[int, Field(ge=0, le=100_000)] = 1000
    """Tenants with series of their own in /metrics: those that were active last."""

    @model_validator(mode="after")
    def _feedback_can_be_redacted(self) -> Self:
        if self.feedback_tenants:
            self.check_scan("feedback_tenants", ",".join(self.feedback_tenants)[:80])
        if _EVERY_TENANT in self.feedback_tenants and len(self.feedback_tenants) > 1:
            raise wrong_setting("feedback_tenants", "* is every tenant: it stands alone")
        return self

    @model_validator(mode="after")
    def _limits_agree(self) -> Self:
        slots, cached = self.adapter_slots, self.max_cpu_loras
        if slots is not None and cached is not None and cached < slots:
            raise wrong_setting(
                "max_cpu_loras",
                f"{cached} is less than adapter_slots {slots}: what is in a slot is kept in host "
                "memory too",
            )
        if self.adapter_cache_bytes < self.max_adapter_bytes:
            raise wrong_setting(
                "adapter_cache_bytes",
                f"{self.adapter_cache_bytes} has no room for one adapter of max_adapter_bytes "
                f"{self.max_adapter_bytes}",
            )
        for name, total in (("running", self.max_running), ("waiting", self.max_waiting)):
            own = getattr(self, f"tenant_max_{name}")
            if own is not None and total is not None and own > total:
                raise wrong_setting(
                    f"tenant_max_{name}",
                    f"{own} is more than max_{name} {total}, which holds for all tenants together",
                )
        return self

    @property
    def feedback_allowed(self) -> frozenset[str] | None:
        """Ids of the tenants that may record feedback; None: every tenant."""
        if _EVERY_TENANT in self.feedback_tenants:
            return None
        return frozenset(self.feedback_tenants)
