"""report.json: how a version was trained, and what was found out about it."""

from __future__ import annotations

from datetime import datetime

from tailorbird.manifest import EvaluationSummary, Lineage
from trainer_svc.jobs.model import DataReport, Hyperparameters, LoraSpec
from trainer_svc.judgement.model import Judgement
from trainer_svc.record import Record


class Report(Record):
    """A version's report. Later releases may add to it; losses are in nats per trained token."""

    schema_version: int = 1
    create_time: datetime
    base_model: str
    lora: LoraSpec
    hyperparameters: Hyperparameters
    lineage: Lineage
    training_data: DataReport
    validation_data: DataReport | None
    training_curve: tuple[tuple[int, float, float], ...]
    """(step, loss, learning rate), thinned to a few hundred."""
    validation_curve: tuple[tuple[int, float], ...]
    """(step, loss); step 0 is the base, or the version that was trained on from."""
    best_step: int | None
    evaluation: EvaluationSummary
    judgement: Judgement | None
    """None: there were no held-out records, or they could not be answered."""

    def to_json(self) -> bytes:
        """Return the bytes to store."""
        return self.model_dump_json(indent=1).encode()
