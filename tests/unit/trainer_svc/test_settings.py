"""The trainer's settings, from an environment that has only strings."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from tailorbird.base_model import BaseModelFiles
from tailorbird.errors import FailedPrecondition, InvalidArgument
from tailorbird.failed_start import wrong_settings
from trainer_svc.app import _executor, _worker_settings
from trainer_svc.bases import BaseModels
from trainer_svc.dispatch.local_executor import LocalExecutor
from trainer_svc.dispatch.ray_executor import RayExecutor
from trainer_svc.dispatch.ray_order import RayCluster
from trainer_svc.jobs.limits import HIGHEST_PRIORITY
from trainer_svc.settings import TrainerSettings, visible_gpus


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


def test_no_tenant_may_ask_for_more_than_the_highest_priority(
    environ: pytest.MonkeyPatch,
) -> None:
    environ.setenv("TAILORBIRD_MAX_PRIORITY", f'{{"*": {HIGHEST_PRIORITY}}}')
    assert TrainerSettings().max_priority == {"*": HIGHEST_PRIORITY}
    environ.setenv("TAILORBIRD_MAX_PRIORITY", f'{{"*": {HIGHEST_PRIORITY + 1}}}')
    with pytest.raises(ValidationError, match=f"less than or equal to {HIGHEST_PRIORITY}"):
        TrainerSettings()


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


@pytest.mark.parametrize(
    ("asked", "devices", "gpus"),
    [
        (None, ["nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"], ("0", "1")),
        (None, ["null"], ()),
        ("3, GPU-7", ["nvidia0"], ("3", "GPU-7")),
        ("", ["nvidia0"], ()),
    ],
)
def test_gpus_are_those_that_cuda_may_see(
    tmp_path: Path, asked: str | None, devices: list[str], gpus: tuple[str, ...]
) -> None:
    for name in devices:
        (tmp_path / name).touch()
    environ = {} if asked is None else {"CUDA_VISIBLE_DEVICES": asked}
    assert visible_gpus(environ, tmp_path) == gpus


@pytest.mark.parametrize(
    ("workers", "gpus", "share"), [(4, "0,1", 0.4), (3, "0,1", 0.4), (2, "0,1,2", 0.8)]
)
def test_workers_that_share_a_gpu_share_its_memory(
    environ: pytest.MonkeyPatch, workers: int, gpus: str, share: float
) -> None:
    environ.setenv("CUDA_VISIBLE_DEVICES", gpus)
    settings = TrainerSettings(
        base_model="demo", device="cuda", workers=workers, gpu_memory_share=0.8
    )
    assert settings.worker_gpu_memory_share == pytest.approx(share)


ADDRESS = "ray://gpus-head-svc:10001"


def test_workers_know_how_long_they_may_be_silent(environ: pytest.MonkeyPatch) -> None:
    base = bases("demo").default
    assert _worker_settings(TrainerSettings(), base).silence_seconds == 120.0
    environ.setenv("TAILORBIRD_WORKER_SILENCE_SECONDS", "1")
    assert _worker_settings(TrainerSettings(), base).silence_seconds == 1.0


@pytest.mark.parametrize("seconds", ["0.9", "3601", "nan"])
def test_no_worker_is_ended_at_once_nor_waited_for_for_ever(
    environ: pytest.MonkeyPatch, seconds: str
) -> None:
    environ.setenv("TAILORBIRD_WORKER_SILENCE_SECONDS", seconds)
    with pytest.raises(ValidationError, match="worker_silence_seconds"):
        TrainerSettings()


def test_on_a_cluster_a_worker_is_as_large_as_its_part_of_a_machine(
    environ: pytest.MonkeyPatch,
) -> None:
    environ.setenv("TAILORBIRD_RAY_ADDRESS", ADDRESS)
    plain = TrainerSettings()
    assert (plain.worker_device, plain.worker_threads, plain.gpus) == ("cpu", 1, ())
    environ.setenv("TAILORBIRD_RAY_WORKER_CPUS", "3.5")
    environ.setenv("TAILORBIRD_RAY_WORKER_GPUS", "0.5")
    environ.setenv("TAILORBIRD_WORKERS", "4")
    placed = TrainerSettings()
    assert (placed.worker_device, placed.worker_threads, placed.gpus) == ("cuda", 3, ())
    assert placed.worker_gpu_memory_share == 0.5


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("RAY_ADDRESS", "auto", "pattern"),
        ("RAY_ADDRESS", "ray://head", "pattern"),
        ("RAY_ADDRESS", "http://head:80", "pattern"),
        ("RAY_WORKER_CPUS", "0", "greater than 0"),
        ("RAY_WORKER_GPUS", "2", "less than or equal to 1"),
        ("RAY_WORKER_RESOURCES", '{"GPU": 1}', "no resource of the operator's own"),
        ("RAY_WORKER_RESOURCES", '{" ": 1}', "no resource of the operator's own"),
        ("RAY_WORKER_RESOURCES", '{"a": 0}', "0 of 'a'"),
        ("RAY_WORKER_RESOURCES", '{"a": 1e10}', "1e\\+10 of 'a'"),
        ("RAY_WORKER_RESOURCES", "[1]", "dictionary"),
        ("RAY_ROOM_SECONDS", "0", "greater than or equal to 1"),
        ("RAY_SILENCE_SECONDS", "1", "greater than or equal to 5"),
        ("WORKER_MEMORY_GIB", "0", "greater than 0"),
        ("DEVICE", "cuda", "ray_worker_gpus sets no GPU aside"),
    ],
)
def test_a_wrong_setting_for_a_cluster_stops_the_start(
    environ: pytest.MonkeyPatch, setting: str, value: str, says: str
) -> None:
    environ.setenv("TAILORBIRD_RAY_ADDRESS", ADDRESS)
    environ.setenv(f"TAILORBIRD_{setting}", value)
    with pytest.raises(ValidationError, match=says):
        TrainerSettings()


@pytest.mark.parametrize("address", ["", ADDRESS, "10.0.0.1:6379", "ray://[fd00::1]:10001"])
def test_an_address_of_a_cluster_is_taken(environ: pytest.MonkeyPatch, address: str) -> None:
    environ.setenv("TAILORBIRD_RAY_ADDRESS", address)
    assert TrainerSettings().ray_address == address


def bases(*models: str) -> BaseModels:
    return BaseModels(
        tuple(BaseModelFiles(each, Path("/here"), f"sha256:{each}", "", 8, 8) for each in models)
    )


def test_an_address_puts_the_workers_on_the_cluster(
    environ: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environ.setattr("trainer_svc.dispatch.ray_executor.find_spec", lambda name: name == "ray")
    environ.setenv("TAILORBIRD_DATA_DIR", str(tmp_path))
    assert isinstance(_executor(TrainerSettings(), {}, bases("demo")), LocalExecutor)
    environ.setenv("TAILORBIRD_RAY_ADDRESS", ADDRESS)
    environ.setenv("TAILORBIRD_RAY_WORKER_RESOURCES", '{"here": 2}')
    environ.setenv("TAILORBIRD_WORKER_MEMORY_GIB", "0.5")
    environ.setenv("TAILORBIRD_MORE_BASE_MODELS", '[{"model": "/models/two", "name": "two"}]')
    executor = _executor(TrainerSettings(), {}, bases("demo", "two"))
    assert isinstance(executor, RayExecutor)
    assert executor._models == {"sha256:demo": "demo", "sha256:two": "/models/two"}
    assert executor._cluster == RayCluster(
        address=ADDRESS, cpus=1.0, gpus=0.0, memory=2**29, resources={"here": 2.0},
        data_dir=str(tmp_path), room_seconds=300.0, silence_seconds=30.0,
    )  # fmt: skip
    environ.setenv("TAILORBIRD_RAY_DATA_DIR", "/mnt/ray")
    executor = _executor(TrainerSettings(), {}, bases("demo", "two"))
    assert isinstance(executor, RayExecutor)
    assert executor._cluster.data_dir == "/mnt/ray"


def test_without_the_extra_an_address_stops_the_start(environ: pytest.MonkeyPatch) -> None:
    environ.setattr("trainer_svc.dispatch.ray_executor.find_spec", lambda _: None)
    environ.setenv("TAILORBIRD_RAY_ADDRESS", ADDRESS)
    with pytest.raises(FailedPrecondition, match=r"install tailorbird\[ray\]") as told:
        _executor(TrainerSettings(), {}, bases("demo"))
    assert (told.value.reason, told.value.metadata["setting"]) == (
        "RAY_NOT_INSTALLED",
        "ray_address",
    )
