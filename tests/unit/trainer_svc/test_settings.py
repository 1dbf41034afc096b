"""The trainer's settings, from an environment that has only strings."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from tailorbird.base_model import BaseModelFiles
from trainer_svc.app import _worker_settings
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


def test_gradient_checkpointing_is_off_until_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = BaseModelFiles("base", Path("/nowhere"), "sha256:1", "sha256:2", 512, 64, "Arch")
    monkeypatch.setenv("TAILORBIRD_BASE_MODEL", "demo")
    assert not _worker_settings(TrainerSettings(), base).gradient_checkpointing
    monkeypatch.setenv("TAILORBIRD_GRADIENT_CHECKPOINTING", "true")
    assert _worker_settings(TrainerSettings(), base).gradient_checkpointing


def test_tokenised_datasets_lie_where_no_worker_empties_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TAILORBIRD_BASE_MODEL", "demo")
    monkeypatch.setenv("TAILORBIRD_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("TAILORBIRD_DATASET_CACHE_BYTES", "7")
    base = BaseModelFiles("demo", tmp_path, "", "", 256, 32)
    worker = _worker_settings(TrainerSettings(), base)
    cache = Path(worker.cache_dir)
    assert worker.cache_bytes == 7
    assert cache.is_relative_to(tmp_path)
    assert not cache.is_relative_to(worker.scratch_dir)
