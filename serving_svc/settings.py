"""Serving's settings: TAILORBIRD_ environment variables, checked at start."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tailorbird.settings import CommonSettings, Port


class ServingSettings(CommonSettings):
    """What serving reads beside the common settings."""

    port: Port = 50052
    """gRPC port; 0 takes a free one."""
    metrics_port: Port = 9092
    """Plain HTTP port for /metrics, /livez and /readyz; 0 takes a free one."""
    adapter_slots: Annotated[int, Field(ge=1, le=256)] = 8
    """Adapters the engine holds at the same time."""
    max_lora_rank: Literal[8, 16, 32, 64, 128] = 64
    """Largest rank served. A slot's memory grows with it, whatever the adapter's own rank."""
    max_model_len: Annotated[int, Field(ge=2)] | None = None
    """Prompt and answer together, in tokens. None: the base model's context."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Number format of the weights. auto: the base model's own, or what vLLM takes in its place."""
    kv_cache_gib: Annotated[int, Field(ge=1)] = 1
    """Memory for the key-value cache on a CPU, in GiB. VLLM_CPU_KVCACHE_SPACE goes before it."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of a GPU's memory that the engine takes."""
    enforce_eager: bool | None = None
    """Run the model without compiling it. None: on a CPU yes, on a GPU no."""
    adapter_cache_bytes: Annotated[int, Field(ge=0)] = 10 * 2**30
    """Adapters kept on local disk beside those in the engine, in bytes."""
    max_adapter_bytes: Annotated[int, Field(ge=1)] = 2 * 2**30
    """Largest adapter_model.safetensors accepted, in bytes."""
    route_poll_interval: Annotated[float, Field(gt=0, le=60)] = 2.0
    """Seconds between two looks at the route of an adapter with traffic, at most; jittered down."""
