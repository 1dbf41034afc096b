"""The trainer's settings, from an environment that has only strings."""

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


def test_a_rank_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILORBIRD_BASE_MODEL", "demo")
    monkeypatch.setenv("TAILORBIRD_MAX_LORA_RANK", "128")
    assert TrainerSettings().max_lora_rank == 128
    monkeypatch.setenv("TAILORBIRD_MAX_LORA_RANK", "100")
    with pytest.raises(ValidationError, match="8, 16, 32, 64 or 128"):
        TrainerSettings()
