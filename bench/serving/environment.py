"""What the compared processes find in their environment: the same for all."""

from __future__ import annotations

import os

from tailorbird.cli.preload import preload_environment

KV_CACHE_GIB = 1


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
