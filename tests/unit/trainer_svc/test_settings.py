"""The trainer's share of a GPU: divided among its workers."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from trainer_svc.settings import TrainerSettings


def test_the_workers_divide_the_share_of_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILORBIRD_BASE_MODEL", "demo")
    monkeypatch.setenv("TAILORBIRD_WORKERS", "2")
    assert TrainerSettings().worker_gpu_memory_share == 0.5
    monkeypatch.setenv("TAILORBIRD_GPU_MEMORY_SHARE", "0.35")
    assert TrainerSettings().worker_gpu_memory_share == pytest.approx(0.175)


def test_a_rank_comes_from_the_environment_as_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILORBIRD_BASE_MODEL", "demo")
    monkeypatch.setenv("TAILORBIRD_MAX_LORA_RANK", "32")
    assert TrainerSettings().max_lora_rank == 32
    monkeypatch.setenv("TAILORBIRD_MAX_LORA_RANK", "33")
    with pytest.raises(ValidationError, match="max_lora_rank"):
        TrainerSettings()
