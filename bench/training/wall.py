"""Customers' jobs with every start: our worker process against a script of TRL's for each."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.serving.processes import Process
from bench.serving.targets import say
from bench.training.environment import common_environment
from bench.training.worker import TrainingWorker

_SCRIPT_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Wall:
    """The same jobs for both sides."""

    base: Path
    datasets: Mapping[str, Path]
    batch: int
    """Records of a step of TRL's."""
    batch_tokens: int
    """Tokens of a step of ours."""
    number_format: str
    """TRL's."""
    threads: int
    at_once: int
    """Jobs that our worker has at a time."""
    work: Path

    def pairs(self, count: int) -> list[dict[str, Any]]:
        """Return what each side took, pair by pair, every second one backwards; BenchFailed."""
        told = []
        for number in range(count):
            place = self.work / f"wall-{number}"
            place.mkdir()
            if number % 2 == 0:
                ours, trl = self._ours(place), self._trl(place)
            else:
                trl, ours = self._trl(place), self._ours(place)
            told.append({"ours": ours, "trl": trl})
            say(
                f"wall, {number + 1} of {count}: "
                f"ours {ours['seconds']:.1f} s, TRL {trl['seconds']:.1f} s"
            )
        return told

    def _ours(self, place: Path) -> dict[str, Any]:
        began = time.perf_counter()
        log = place / "worker.log"
        with TrainingWorker(self.base, place / "worker", log, self.threads) as worker:
            tokens = worker.train(self.datasets, self.batch_tokens, self.at_once)
            seconds = time.perf_counter() - began
            return {"seconds": seconds, "tokens": tokens, "peak_mib": worker.peak_mib()}

    def _trl(self, place: Path) -> dict[str, Any]:
        began = time.perf_counter()
        runs = [self._script(place, job, path) for job, path in self.datasets.items()]
        return {
            "seconds": time.perf_counter() - began,
            "tokens": sum(run["tokens"] for run in runs),
            "peak_mib": max(run["peak_mib"] for run in runs),
            "runs": runs,
        }

    def _script(self, place: Path, job: str, data: Path) -> dict[str, Any]:
        told = place / f"trl-{job}.json"
        options = {
            "--base": self.base,
            "--data": data,
            "--out": place / f"trl-{job}",
            "--format": self.number_format,
            "--batch": self.batch,
            "--told": told,
        }
        process = Process(
            f"TRL, {job}",
            [
                "-m",
                "bench.training.trl_script",
                *(str(word) for both in options.items() for word in both),
            ],
            common_environment(self.threads),
            place / f"trl-{job}.log",
        )
        try:
            process.wait(_SCRIPT_SECONDS)
        finally:
            process.stop()
        content: dict[str, Any] = json.loads(told.read_text())
        return content
