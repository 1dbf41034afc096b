"""The gate: what a version must pass before the engine sees a byte of it, and its probes after."""

from serving_svc.adapters.gate.check import (
    NEEDED_FILES,
    ServedBase,
    check_files,
    check_manifest,
    check_sizes,
    linear_layers,
)
from serving_svc.adapters.gate.probes import (
    PROBE_FLOOR_DEFAULT,
    PROBE_FLOORS,
    judge_probes,
)

__all__ = [
    "NEEDED_FILES",
    "PROBE_FLOORS",
    "PROBE_FLOOR_DEFAULT",
    "ServedBase",
    "check_files",
    "check_manifest",
    "check_sizes",
    "judge_probes",
    "linear_layers",
]
