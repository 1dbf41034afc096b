"""The trainer's settings, from an environment that has only strings."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from tailorbird.base_model import BaseModelFiles
from tailorbird.errors import InvalidArgument
from tailorbird.failed_start import wrong_settings
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


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("TAILORBIRD_BASE_MODEL", "demo")
    return monkeypatch


def test_patterns_for_personal_data_are_read_line_by_line(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("TAILORBIRD_PERSONAL_DATA", "redact")
    environ.setenv("TAILORBIRD_PERSONAL_DATA_KINDS", "email, phone")
    environ.setenv("TAILORBIRD_PERSONAL_DATA_PATTERNS", "ticket=T-[0-9]{4,9}\n\ncase=a=b\n")
    settings = TrainerSettings()
    assert settings.personal_data_kinds == ("email", "phone")
    assert settings.patterns_by_kind == {"ticket": "T-[0-9]{4,9}", "case": "a=b"}


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("PATTERNS", "ticket=(a", "ticket: not a regular expression: .* at position 2"),
        ("PATTERNS", "ticket", "ticket: 0 characters"),
        ("PATTERNS", "mrn=A[0-9]+\ncase=C\nmrn =B[0-9]+", "'mrn' is there twice"),
        ("KINDS", "email,emial", "'emial' is not one of email"),
        ("KINDS", "person", "'person' needs spacy_model"),
        ("MIN_SCORE", "1.5", "less than or equal to 1"),
    ],
)
def test_a_wrong_setting_for_personal_data_stops_the_start(
    environ: pytest.MonkeyPatch, setting: str, value: str, message: str
) -> None:
    environ.setenv(f"TAILORBIRD_PERSONAL_DATA_{setting}", value)
    with pytest.raises(ValidationError, match=message) as told:
        TrainerSettings()
    ((name, _),) = wrong_settings(told.value)
    assert name == f"personal_data_{setting.lower()}"


@pytest.mark.parametrize("mode", ["scan", "substitute", "redact", "refuse"])
def test_without_the_extra_only_off_starts(environ: pytest.MonkeyPatch, mode: str) -> None:
    environ.setattr("tailorbird.personal_data.settings.find_spec", lambda _: None)
    assert TrainerSettings().personal_data == "off"
    environ.setenv("TAILORBIRD_PERSONAL_DATA", mode)
    with pytest.raises(ValidationError) as told:
        TrainerSettings()
    ((name, problem),) = wrong_settings(told.value)
    assert name == "personal_data"
    assert (
        problem
        == f"'{mode}' needs Presidio, which is not installed: pip install 'tailorbird[privacy]'"
    )


def test_options_that_need_the_extra_name_the_setting(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("TAILORBIRD_PERSONAL_DATA", "scan")
    environ.setitem(sys.modules, "tailorbird.personal_data.options", None)
    with pytest.raises(ValidationError, match="pip install") as told:
        TrainerSettings()
    ((name, _),) = wrong_settings(told.value)
    assert name == "personal_data"


def test_a_spacy_model_that_is_none_stops_the_start(
    environ: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environ.setenv("TAILORBIRD_PERSONAL_DATA", "scan")
    environ.setenv("TAILORBIRD_PERSONAL_DATA_SPACY_MODEL", str(tmp_path))
    with pytest.raises(InvalidArgument, match="is no spaCy pipeline") as told:
        TrainerSettings().scanner()
    assert told.value.field == "personal_data_spacy_model"


def test_prefixes_for_datasets_are_read_by_tenant(environ: pytest.MonkeyPatch) -> None:
    assert TrainerSettings().dataset_prefixes == {}
    given = {"acme": ["s3://acme/train/", "file:///srv/acme/"], "*": ["gs://drop/{tenant}/in/"]}
    environ.setenv("TAILORBIRD_DATASET_PREFIXES", json.dumps(given))
    assert TrainerSettings().dataset_prefixes == {
        "acme": ("s3://acme/train/", "file:///srv/acme/"),
        "*": ("gs://drop/{tenant}/in/",),
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("s3://acme/", "it is not JSON"),
        ('["s3://acme/"]', "dictionary"),
        ('{"acme": "s3://acme/"}', "tuple"),
        ('{"Acme": ["s3://acme/"]}', "'Acme' is neither a tenant's id nor"),
        ('{"acme": ["s3://acme"]}', "ends with a slash"),
        ('{"acme": ["s3://acme/../x/"]}', "ends with a slash"),
        ('{"acme": ["s3://acme/%41/"]}', "ends with a slash"),
        ('{"acme": ["https://acme/"]}', "ends with a slash"),
        ('{"acme": ["s3://drop/{tenant}/"]}', "ends with a slash"),
        ('{"*": ["s3://drop/"]}', "as one part"),
        ('{"*": ["s3://drop/x{tenant}x/"]}', "as one part"),
        (json.dumps({"acme": ["s3://acme/"] * 4097}), "more than 4096 prefixes"),
    ],
)
def test_wrong_prefixes_for_datasets_stop_the_start(
    environ: pytest.MonkeyPatch, given: str, message: str
) -> None:
    environ.setenv("TAILORBIRD_DATASET_PREFIXES", given)
    with pytest.raises(ValidationError, match=message) as told:
        TrainerSettings()
    ((name, _),) = wrong_settings(told.value)
    assert name.startswith("dataset_prefixes")


@pytest.mark.parametrize("quota", ["dataset_quota_bytes", "dataset_quota_records"])
def test_quotas_of_datasets_are_read_by_tenant(environ: pytest.MonkeyPatch, quota: str) -> None:
    assert getattr(TrainerSettings(), quota) == {}
    environ.setenv(f"TAILORBIRD_{quota.upper()}", '{"acme": 0, "*": 10}')
    assert getattr(TrainerSettings(), quota) == {"acme": 0, "*": 10}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("10", "dictionary"),
        ("10 GB", "it is not JSON"),
        ('{"Acme": 1}', "'Acme' is neither a tenant's id nor"),
        ('{"acme": -1}', "greater than or equal to 0"),
        ('{"acme": "all"}', "valid integer"),
    ],
)
def test_wrong_quotas_of_datasets_stop_the_start(
    environ: pytest.MonkeyPatch, given: str, message: str
) -> None:
    environ.setenv("TAILORBIRD_DATASET_QUOTA_BYTES", given)
    with pytest.raises(ValidationError, match=message) as told:
        TrainerSettings()
    ((name, _),) = wrong_settings(told.value)
    assert name.startswith("dataset_quota_bytes")
