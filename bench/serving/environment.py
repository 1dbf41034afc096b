"""What the compared processes find in their environment: the same for all, but for what is ours."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

_PRELOADS = ("libtcmalloc_minimal.so.4", "libiomp5.so")
_LIBRARY_FOLDERS = (
    Path(sys.prefix) / "lib",
    Path("/usr/lib/x86_64-linux-gnu"),
    Path("/usr/lib/aarch64-linux-gnu"),
    Path("/usr/lib64"),
    Path("/usr/lib"),
)
KV_CACHE_GIB = 1


def preloads() -> list[str]:
    """Return the libraries preloaded into every server: those of `_PRELOADS` found here."""
    found: list[str] = []
    for name in _PRELOADS:
        paths = [folder / name for folder in _LIBRARY_FOLDERS if (folder / name).exists()]
        found.extend(map(str, paths[:1]))
    return found


def common_environment() -> dict[str, str]:
    """Return what the peer, the ceiling and our service all get."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("TAILORBIRD_")
    }
    return {
        **inherited,
        "LD_PRELOAD": ":".join(preloads()),
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": str(KV_CACHE_GIB),
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
    }


def kernel_environment() -> Mapping[str, str]:
    """Return what switches our LoRA kernels on in an engine that our service did not start.

    Empty while the engine room has none.
    """
    try:
        module = importlib.import_module("serving_svc.engine.cpu_lora")
    except ModuleNotFoundError:
        return {}
    variables: Mapping[str, str] = module.ENVIRONMENT
    return variables
