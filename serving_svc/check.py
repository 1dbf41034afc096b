"""python -m serving_svc check: what this replica needs, and whether it is as it should be."""

from __future__ import annotations

from collections.abc import Sequence

from serving_svc.settings import ServingSettings
from tailorbird.doctor.service import run as run_checks


def run(arguments: Sequence[str]) -> int:
    """Print the findings; see `tailorbird.doctor.service.run`."""
    return run_checks(arguments, "serving_svc", ServingSettings, lambda _: [], "serving/lock")
