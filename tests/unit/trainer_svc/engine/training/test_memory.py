"""What a worker says of its memory."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from trainer_svc.engine.training.memory import WorkerMemory

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@dataclass
class Gpu:
    """torch's one peak, which begins again when it is told to."""

    held: int = 0
    peak: int = 0
    asked: set[torch.device] = field(default_factory=set)

    def use(self, peak: int, held: int = 0) -> None:
        self.peak, self.held = max(self.peak, peak), held

    def max_memory_allocated(self, device: torch.device) -> int:
        self.asked.add(device)
        return self.peak

    def reset_peak_memory_stats(self, device: torch.device) -> None:
        self.asked.add(device)
        self.peak = self.held


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    made = Gpu()
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", made.max_memory_allocated)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", made.reset_peak_memory_stats)
    return made


def test_a_peak_is_counted_once(gpu: Gpu) -> None:
    memory = WorkerMemory()
    gpu.use(900, held=100)
    assert memory.taken("one", CUDA) == 900
    assert memory.taken("one", CUDA) == 100
    assert gpu.asked == {CUDA}


def test_each_job_sees_every_peak_since_it_asked(gpu: Gpu) -> None:
    memory = WorkerMemory()
    memory.taken("one", CUDA)
    memory.taken("two", CUDA)
    for peak in (500, 900, 700):
        gpu.use(peak, held=100)
        assert memory.taken("one", CUDA) == peak
    assert memory.taken("two", CUDA) == 900
    assert memory.taken("two", CUDA) == 100


def test_a_job_that_left_begins_anew(gpu: Gpu) -> None:
    memory = WorkerMemory()
    memory.taken("two", CUDA)
    gpu.use(900)
    memory.taken("one", CUDA)
    memory.left("two")
    memory.left("never here")
    assert memory.taken("two", CUDA) == 0


def test_on_a_cpu_it_is_what_the_process_holds(gpu: Gpu) -> None:
    shown = subprocess.run(
        ["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, check=True, text=True
    )
    found = WorkerMemory().taken("one", CPU)
    assert found == pytest.approx(int(shown.stdout) * 1024, rel=0.2)
    assert gpu.asked == set()


def test_without_a_figure_the_job_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer_svc.engine.training.memory._STATM", tmp_path / "none")
    assert WorkerMemory().taken("one", CPU) is None
