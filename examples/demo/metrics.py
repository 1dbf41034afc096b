"""The lines of /metrics that tell the story."""

from __future__ import annotations

TRAINER = (
    "tailorbird_trainer_datasets_uploaded_total",
    "tailorbird_trainer_jobs_finished_total",
    "tailorbird_trainer_steps_total",
    "tailorbird_trainer_tokens_total",
    "tailorbird_trainer_versions_published_total",
    "tailorbird_trainer_worker_losses_total",
)
SERVING = (
    "tailorbird_serving_requests_total",
    "tailorbird_serving_tokens_total",
    "tailorbird_serving_adapters_resident",
    "tailorbird_serving_adapter_loads_total",
    "tailorbird_serving_refusals_total",
    "tailorbird_serving_route_flips_total",
)


def lines(exposition: str, names: tuple[str, ...]) -> list[str]:
    """Return the samples of the metrics `names`, in that order."""
    samples = [line for line in exposition.splitlines() if not line.startswith("#")]
    return [
        sample
        for name in names
        for sample in samples
        if sample.startswith((f"{name} ", f"{name}{{"))
    ]


def total(exposition: str, name: str) -> float:
    """Return the sum of a metric's samples."""
    return sum(float(line.rpartition(" ")[2]) for line in lines(exposition, (name,)))
