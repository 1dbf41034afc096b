"""All that the trainer answers over HTTP."""

from __future__ import annotations

from starlette.routing import Route

from trainer_svc.bases import BaseModels
from trainer_svc.datasets.store import DatasetStore
from trainer_svc.http.files import Files
from trainer_svc.http.jobs import FineTuningJobs
from trainer_svc.jobs.history import History
from trainer_svc.jobs.service import TuningService
from trainer_svc.metrics import TrainerMetrics


def routes(
    service: TuningService,
    datasets: DatasetStore,
    history: History,
    bases: BaseModels,
    metrics: TrainerMetrics,
    max_dataset_bytes: int,
) -> list[Route]:
    """Return the routes of files and of fine-tuning jobs."""
    return [
        *Files(datasets, service, metrics, max_dataset_bytes).routes(),
        *FineTuningJobs(service, history, bases).routes(),
    ]
