"""What every process here finds in its environment: the same for all."""

from __future__ import annotations

import os


def common_environment(threads: int) -> dict[str, str]:
    """Return it. Threads that wait spin briefly, as in our worker: each has a busy neighbour."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("TAILORBIRD_")
    }
    return {
        **inherited,
        "OMP_NUM_THREADS": str(threads),
        "GOMP_SPINCOUNT": "1000",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
