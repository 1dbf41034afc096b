"""Steps of TRL's SFTTrainer over records that are tokenised already, its data loading included."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback

from bench.training.peft_steps import lora_config
from bench.training.sizes import Lora
from bench.training.trl_trainer import make_trainer
from bench.training.workload import Workload


class _Clock(TrainerCallback):  # type: ignore[misc]
    """Times the steps, without what the trainer does before and after them."""

    def __init__(self) -> None:
        self.began = self.ended = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.perf_counter()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.ended = time.perf_counter()


class TrlSteps:
    """One job. The records come in the order of the workload, as many a step as it has."""

    def __init__(
        self, base: Path, workload: Workload, lora: Lora, number_format: str, out: Path
    ) -> None:
        ((_, self._steps),) = workload.items()
        self._clock = _Clock()
        records = [record for step in self._steps for record in step]
        self._trainer = make_trainer(
            base,
            Dataset.from_dict(
                {
                    "input_ids": [list(record.token_ids) for record in records],
                    "completion_mask": [list(record.trained) for record in records],
                }
            ),
            lora_config(lora),
            number_format,
            out,
            batch=len(self._steps[0]),
            callbacks=[self._clock],
            completion_only_loss=True,
            lr_scheduler_type="constant",
            train_sampling_strategy="sequential",
        )

    def run(self, steps: int) -> int:
        """Take the first `steps` steps; return the tokens read, padding left out."""
        self._trainer.args.max_steps = steps
        self._trainer.train()
        return sum(len(record.token_ids) for step in self._steps[:steps] for record in step)

    @property
    def seconds(self) -> float:
        """How long the last run's steps took."""
        return self._clock.ended - self._clock.began
