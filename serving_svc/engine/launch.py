"""Builds the engine from the base and the plan, in an environment that suits vLLM."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving_svc.engine.plan import EnginePlan
from tailorbird.base_model import BaseModelFiles
from tailorbird.errors import FailedPrecondition, TailorbirdError
from tailorbird.telemetry import LogFormat, is_console

if TYPE_CHECKING:
    from serving_svc.engine.vllm_engine import VllmEngine


def prepare_environment(kv_cache_gib: int, log_format: LogFormat, folder: Path) -> int:
    """Set what vLLM reads when it is imported and in the processes it starts; the user's stands.

    Its logs take our shape, by a file in `folder`. Return the GiB that its key-value cache takes on
    a CPU.
    """
    level = os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    # What it logs before it has set up its own logging.
    logging.getLogger("vllm").setLevel(level)
    if "VLLM_LOGGING_CONFIG_PATH" not in os.environ:
        path = folder / "vllm-logging.json"
        path.write_text(json.dumps(_logging_config(level, log_format)))
        os.environ["VLLM_LOGGING_CONFIG_PATH"] = str(path)
    # Its worker does not end by itself: waiting longer than this for it gains nothing.
    os.environ.setdefault("VLLM_WORKER_SHUTDOWN_TIMEOUT_SECONDS", "1")
    return int(os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(kv_cache_gib)))


def _logging_config(level: str, log_format: LogFormat) -> dict[str, Any]:
    """Return what each of vLLM's processes gives logging.config.dictConfig, ours among them."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "tailorbird": {
                "()": "tailorbird.telemetry.log_formatter",
                "console": is_console(log_format),
            }
        },
        "handlers": {
            "stderr": {
                "class": "tailorbird.printed.PlainStderr",
                "formatter": "tailorbird",
            }
        },
        "root": {"handlers": ["stderr"], "level": logging.getLevelName(logging.root.level)},
        "loggers": {"vllm": {"level": level, "propagate": True}},
    }


def engine_starter(
    base: BaseModelFiles,
    plan: EnginePlan,
    lora_modules: list[str],
    *,
    dtype: str,
    max_model_len: int | None,
    gpu_memory_utilization: float,
    enforce_eager: bool | None,
    tool_call_parser: str | None,
) -> Callable[[], Awaitable[VllmEngine]]:
    """Return what starts an engine that is ready to generate.

    It raises FailedPrecondition (BASE_UNUSABLE) if vLLM cannot load the base.
    """

    async def start() -> VllmEngine:
        # Seconds, and from here on vLLM has read the environment.
        await asyncio.to_thread(_import)
        from serving_svc.engine.processes import EngineConfig
        from serving_svc.engine.vllm_engine import VllmEngine

        config = EngineConfig(
            model=Path(base.path),
            dtype=dtype,
            max_model_len=max_model_len,
            adapter_slots=plan.adapter_slots,
            max_cpu_loras=plan.max_cpu_loras,
            max_lora_rank=plan.max_lora_rank,
            lora_modules=lora_modules,
            max_running=plan.max_running,
            max_step_tokens=plan.max_step_tokens,
            gpu_memory_utilization=gpu_memory_utilization,
            tensor_parallel_size=plan.tensor_parallel_size,
            enforce_eager=enforce_eager,
            tool_call_parser=tool_call_parser,
        )
        try:
            engine = await VllmEngine.build(config)
        except TailorbirdError:
            raise
        except Exception as error:
            raise unusable(base, error) from error
        try:
            await engine.check()
        except BaseException:
            await engine.shutdown()
            raise
        # A full collection over what importing and starting left would stop every stream for 0.4 s.
        # What is frozen is never collected: the engine before this one is to go.
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        return engine

    return start


def unusable(base: BaseModelFiles, error: Exception) -> FailedPrecondition:
    """Return the error of a base that cannot be served."""
    text = " ".join(str(error).split())[:500]
    return FailedPrecondition(
        f"the base model {base.name} cannot be loaded: {type(error).__name__}: {text}",
        reason="BASE_UNUSABLE",
        setting="base_model",
    )


def _import() -> None:
    import serving_svc.engine.vllm_engine  # noqa: F401
