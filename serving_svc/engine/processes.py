"""Starts vLLM's processes, with the options that serving relies on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext
from vllm.utils.ompmultiprocessing import OMPProcessManager
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.metrics.loggers import StatLoggerBase

from serving_svc.engine import cpu_lora
from serving_svc.engine.sampling import STRUCTURE_BACKEND


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What the engine is built from; None leaves the choice to vLLM or to the platform."""

    model: Path
    dtype: str
    max_model_len: int | None
    adapter_slots: int
    max_cpu_loras: int
    max_lora_rank: int
    lora_modules: Sequence[str]
    """Last parts of the names of the layers that adapters may change."""
    max_running: int
    max_step_tokens: int | None
    gpu_memory_utilization: float
    tensor_parallel_size: int
    enforce_eager: bool | None
    tool_call_parser: str | None = None


def start_processes(config: EngineConfig) -> AsyncLLM:
    """Start the engine's processes and load the model. Blocking: seconds to minutes."""
    on_cpu = current_platform.is_cpu()
    arguments = AsyncEngineArgs(
        model=str(config.model.resolve()),
        dtype=config.dtype,
        max_model_len=config.max_model_len,
        enable_lora=True,
        max_loras=config.adapter_slots,
        max_cpu_loras=config.max_cpu_loras,
        max_lora_rank=config.max_lora_rank,
        # Without the head: vLLM 0.32 dies of prompt logprobs in a batch of several requests
        # when the head takes adapters, and our probes are such requests.
        lora_target_modules=sorted(config.lora_modules),
        max_num_seqs=config.max_running,
        max_num_batched_tokens=config.max_step_tokens,
        enforce_eager=on_cpu if config.enforce_eager is None else config.enforce_eager,
        gpu_memory_utilization=config.gpu_memory_utilization,
        tensor_parallel_size=config.tensor_parallel_size,
        structured_outputs_config={"backend": STRUCTURE_BACKEND},
        enable_prefix_caching=True,
        enable_log_requests=False,
        disable_log_stats=True,
    )
    # With a logger of statistics, one that logs nothing, the engine sends them: how full it is.
    return launch(arguments, stat_loggers=[_NoLogger])


def launch(arguments: AsyncEngineArgs, **options: Any) -> AsyncLLM:
    """Start vLLM as serving does: with our kernels, and on a CPU without tensor parallelism as one.

    vLLM 0.32 would make the worker a process of its own there, to give it OpenMP's settings, and
    the two would wait for each other twice a step, spinning. As one process they made 1.1 times the
    tokens/s of a third less CPU a token, and given the same settings 1.1 times that again (two
    cores, 32 streams, base and 8 adapters, 7 alternated pairs each).
    """
    # On a CPU vLLM 0.32 takes "no adapter", -1, for the last slot; our kernels do not.
    cpu_lora.enable()
    config = arguments.create_engine_config(UsageContext.ENGINE_CONTEXT)
    settings: AbstractContextManager[None] = nullcontext()
    if current_platform.is_cpu() and config.parallel_config.world_size == 1:
        config.parallel_config.distributed_executor_backend = "uni"
        settings = OMPProcessManager(config).configure_omp_envs(rank=0, local_rank=0)
    with settings:
        return AsyncLLM.from_vllm_config(config, disable_log_stats=True, **options)


class _NoLogger(StatLoggerBase):  # type: ignore[misc]  # vllm has no types for mypy here
    """Takes the engine's statistics, which our output loop reads by itself."""

    def __init__(self, vllm_config: object, engine_index: int = 0) -> None: ...

    def record(self, *_: object, **__: object) -> None: ...

    def log_engine_initialized(self) -> None: ...
