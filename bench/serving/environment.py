"""What the compared processes find in their environment: the same for all."""

from __future__ import annotations

import importlib
import importlib.util
import os
from types import ModuleType

KV_CACHE_GIB = 1

_PRELOAD = "tailorbird.cli.preload"
_KERNELS = "serving_svc.engine.cpu_lora"


def preload_environment() -> dict[str, str]:
    """Return the LD_PRELOAD that `tailorbird up` gives our service; {} while it gives none."""
    module = _found(_PRELOAD)
    return {} if module is None else dict(module.preload_environment())


def common_environment() -> dict[str, str]:
    """Return what the peer, the ceiling and our service all get."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("TAILORBIRD_")
    }
    return {
        **inherited,
        **preload_environment(),
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": str(KV_CACHE_GIB),
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
    }


def has_kernels() -> bool:
    """Tell whether our service has LoRA kernels of its own."""
    return _found(_KERNELS) is not None


def enable_kernels() -> None:
    """Have engines that this process starts use our kernels, as our service does, if it has any.

    Call it before vLLM is imported.
    """
    module = _found(_KERNELS)
    if module is not None:
        module.enable()


def _found(name: str) -> ModuleType | None:
    return importlib.import_module(name) if importlib.util.find_spec(name) else None
