"""What the trainer counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from trainer_svc.jobs.model import JobState
from trainer_svc.jobs.sweep import HALVED


class TrainerMetrics:
    """Counters and gauges of one trainer process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.jobs = Gauge(
            "tailorbird_trainer_jobs",
            "Jobs that have not ended, by state.",
            ["state"],
            registry=registry,
        )
        self.finished = Counter(
            "tailorbird_trainer_jobs_finished",
            "Jobs ended by this process, by state and, for FAILED, reason.",
            ["state", "reason"],
            registry=registry,
        )
        self.steps = Counter(
            "tailorbird_trainer_steps", "Optimizer steps reported by workers.", registry=registry
        )
        self.tokens = Counter(
            "tailorbird_trainer_tokens",
            "Tokens read by workers, prompts included.",
            registry=registry,
        )
        self.versions = Counter(
            "tailorbird_trainer_versions_published",
            "Versions published, by whether the route moved.",
            ["promoted"],
            registry=registry,
        )
        self.trials = Gauge(
            "tailorbird_trainer_sweep_trials",
            "Trials that are not stopped, of the sweeps that workers have.",
            registry=registry,
        )
        self.trials_stopped = Counter(
            "tailorbird_trainer_sweep_trials_stopped",
            "Trials stopped while their sweep went on, by reason.",
            ["reason"],
            registry=registry,
        )
        # There from the start, at 0: what a rate is taken of must not begin at 1.
        self.trials_stopped.labels(HALVED)
        self.datasets = Counter(
            "tailorbird_trainer_datasets_uploaded", "Datasets accepted.", registry=registry
        )
        self.dataset_bytes = Counter(
            "tailorbird_trainer_dataset_bytes", "Bytes of datasets accepted.", registry=registry
        )
        self.workers = Gauge(
            "tailorbird_trainer_workers_ready",
            "Worker processes with a base model loaded, by its name.",
            ["base_model"],
            registry=registry,
        )
        self.worker_memory = Gauge(
            "tailorbird_trainer_worker_memory_bytes",
            "Memory that a worker takes, as its jobs' progress says; 0 before the first.",
            ["worker"],
            registry=registry,
        )
        self.worker_losses = Counter(
            "tailorbird_trainer_worker_losses",
            "Worker processes that died with or without a job.",
            registry=registry,
        )

        self.collections = Counter(
            "tailorbird_trainer_collections",
            "Rounds of housekeeping of this process: done, partly done, or failed.",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("done", "partly", "failed"):
            self.collections.labels(outcome)
        self.collected = Counter(
            "tailorbird_trainer_collected",
            "What housekeeping has removed: checkpoints, versions and so on, by kind.",
            ["kind"],
            registry=registry,
        )
        self.collected_bytes = Counter(
            "tailorbird_trainer_collected_bytes",
            "Bytes that housekeeping has removed, by kind of what they were.",
            ["kind"],
            registry=registry,
        )

    def count_collected(self, kind: str, things: int, bytes_: int) -> None:
        """Count what housekeeping has removed of one kind."""
        self.collected.labels(kind).inc(things)
        self.collected_bytes.labels(kind).inc(bytes_)

    def set_jobs(self, counts: dict[JobState, int]) -> None:
        """Show how many jobs are in each state that is not terminal."""
        for state, count in counts.items():
            self.jobs.labels(state).set(count)
