"""What a sweep costs against its settings one after another, through one real worker each."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.serving.targets import say
from bench.training.worker import TrainingWorker
from trainer_svc.jobs.model import Hyperparameters, LoraSpec
from trainer_svc.jobs.sweep import (
    AskedSweep,
    SearchSpace,
    SweepResults,
    SweepSpec,
    TrialSpec,
    settings,
)
from trainer_svc.judgement.model import EvaluationSpec
from trainer_svc.protocol import SweepAssignment

SETTINGS = AskedSweep(
    space=SearchSpace(ranks=(8, 32), learning_rates=(1e-4, 5e-4, 2e-3, 8e-3)), eta=2
)
"""Eight: too low a rate, two good ones, and too high a one, for a small and a larger rank."""
_VALIDATION_FRACTION = 0.1
_AT_ONCE = 4
"""Trials that train at a time: what a sweep gets of an idle worker with room for eight jobs."""


@dataclass(frozen=True)
class Side:
    """One way to find the best of the settings: its seconds, and the loss of what it found."""

    seconds: float
    validation_loss: float


@dataclass(frozen=True)
class SweepBench:
    """Eight settings on one dataset, on one base. Nothing is judged but the validation loss."""

    base: Path
    data: Path
    epochs: int
    batch_tokens: int
    threads: int
    work: Path

    def measured(self, pairs: int) -> dict[str, Any]:
        """Return both sides' figures, pair by pair, every second one backwards; BenchFailed.

        `sweep_ratio` is the median pair's seconds of the sweep over those of the eight jobs.
        """
        told = []
        for number in range(pairs):
            place = self.work / f"sweep-{number}"
            place.mkdir(parents=True)
            sides = [("sweep", self._sweep), ("jobs", self._jobs)]
            found = {name: run(place) for name, run in (sides if number % 2 == 0 else sides[::-1])}
            told.append({name: asdict(side) for name, side in found.items()})
            say(
                f"sweep, {number + 1} of {pairs}: {found['sweep'].seconds:.1f} s, "
                f"eight jobs {found['jobs'].seconds:.1f} s"
            )
        ratios = sorted(pair["sweep"]["seconds"] / pair["jobs"]["seconds"] for pair in told)
        return {"sweep_ratio": ratios[len(ratios) // 2], "pairs": told}

    def _worker(self, place: Path, name: str) -> TrainingWorker:
        log = place / f"{name}.log"
        return TrainingWorker(self.base, place / name, log, self.threads)

    def _sweep(self, place: Path) -> Side:
        trials = tuple(
            TrialSpec(rank=rank, alpha=2.0 * rank, learning_rate=each.learning_rate)
            for each in settings(SETTINGS)
            if (rank := each.rank or 0)
        )
        spec = SweepSpec(asked=SETTINGS, trials=trials)
        sweep = SweepAssignment(spec=spec, results=SweepResults.begun(spec), at_once=_AT_ONCE)
        with self._worker(place, "sweep") as worker:
            self._warm(worker)
            assignment = worker.assignment("sweep", self.data, **self._common(), sweep=sweep)
            return _timed(worker, [assignment])

    def _jobs(self, place: Path) -> Side:
        with self._worker(place, "jobs") as worker:
            self._warm(worker)
            assignments = []
            for number, each in enumerate(settings(SETTINGS)):
                rank = each.rank or 0
                common = self._common(each.learning_rate)
                lora = LoraSpec(rank=rank, alpha=2.0 * rank)
                assignments.append(
                    worker.assignment(f"job-{number}", self.data, **{**common, "lora": lora})
                )
            return _timed(worker, assignments)

    def _common(self, learning_rate: float | None = None) -> dict[str, Any]:
        return {
            "validation_fraction": _VALIDATION_FRACTION,
            "evaluation": EvaluationSpec(max_records=0),
            "hyperparameters": Hyperparameters(
                learning_rate=learning_rate,
                epochs=self.epochs,
                batch_tokens=self.batch_tokens,
                seed=0,
            ),
        }

    def _warm(self, worker: TrainingWorker) -> None:
        """Have the data tokenised and the worker in its stride before the clock starts."""
        common = self._common(1e-4)
        short = common["hyperparameters"].model_copy(update={"epochs": 1})
        warm = worker.assignment("warm", self.data, **{**common, "hyperparameters": short})
        worker.run([warm], at_once=1)


def _timed(worker: TrainingWorker, assignments: list[Any]) -> Side:
    began = time.perf_counter()
    losses = worker.run(assignments, at_once=1).validation_losses
    return Side(time.perf_counter() - began, min(losses.values()))
