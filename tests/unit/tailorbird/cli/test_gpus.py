"""How `up` divides GPUs: one for each where there are enough, otherwise by their memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailorbird.cli.gpus import divide, serving_gpus, visible_gpus
from tailorbird.errors import FailedPrecondition, InvalidArgument

UTILIZATION = "TAILORBIRD_GPU_MEMORY_UTILIZATION"
SHARE = "TAILORBIRD_GPU_MEMORY_SHARE"


def test_without_a_gpu_nothing_is_divided() -> None:
    division = divide([], {})
    assert not division.serving
    assert not division.trainer
    assert not division.told


def test_one_gpu_is_shared_by_its_memory() -> None:
    division = divide(["0"], {})
    assert division.serving == {UTILIZATION: "0.6"}
    assert division.trainer == {SHARE: "0.35"}
    assert "GPU 0 for both: serving takes 60% of the memory" in division.told
    assert "the trainer at most 35%" in division.told


@pytest.mark.parametrize(
    ("set_to", "serving", "trainer"),
    [
        ({UTILIZATION: "0.8"}, "0.8", "0.15"),
        ({UTILIZATION: "0.3"}, "0.3", "0.35"),
        ({SHARE: "0.5"}, "0.45", "0.5"),
        ({SHARE: "0.1"}, "0.6", "0.1"),
        ({UTILIZATION: "0.5", SHARE: "0.5"}, "0.5", "0.5"),
    ],
)
def test_what_is_set_stands_and_the_other_gets_the_rest(
    set_to: dict[str, str], serving: str, trainer: str
) -> None:
    division = divide(["0"], set_to)
    assert division.serving == {UTILIZATION: serving}
    assert division.trainer == {SHARE: trainer}


@pytest.mark.parametrize(
    "set_to",
    [{UTILIZATION: "0.7", SHARE: "0.4"}, {UTILIZATION: "0.95"}, {SHARE: "1"}, {SHARE: "-0.1"}],
)
def test_both_together_have_at_most_one_gpu(set_to: dict[str, str]) -> None:
    with pytest.raises(FailedPrecondition, match="share one GPU") as failed:
        divide(["0"], set_to)
    assert failed.value.reason == "GPU_OVERCOMMITTED"


@pytest.mark.parametrize("name", [UTILIZATION, SHARE, "TAILORBIRD_TENSOR_PARALLEL_SIZE"])
def test_what_is_no_number_names_its_variable(name: str) -> None:
    with pytest.raises(InvalidArgument, match=f"{name}: 'much' is not a number"):
        divide(["0"], {name: "much"})


def test_with_more_gpus_each_service_has_its_own() -> None:
    division = divide(["0", "GPU-77", "2"], {"TAILORBIRD_TENSOR_PARALLEL_SIZE": "2"})
    assert division.serving == {"CUDA_VISIBLE_DEVICES": "0,GPU-77"}
    assert division.trainer == {"CUDA_VISIBLE_DEVICES": "2"}
    assert division.told == "serving has GPUs 0, GPU-77, the trainer GPU 2"


def test_a_model_over_all_gpus_leaves_the_trainer_a_share() -> None:
    division = divide(["0", "1"], {"TAILORBIRD_TENSOR_PARALLEL_SIZE": "2"})
    assert division.trainer == {SHARE: "0.35"}
    assert division.told.startswith("GPUs 0, 1 for both")


def test_a_trainer_on_the_cpu_needs_no_share() -> None:
    division = divide(["0"], {"TAILORBIRD_DEVICE": "cpu"})
    assert not division.serving
    assert not division.trainer
    assert "the trainer runs on the CPU" in division.told


@pytest.mark.parametrize(
    ("chosen", "seen"),
    [(None, ["0", "1"]), ("", []), ("1", ["1"]), ("1, 0", ["1", "0"]), ("0,-1,1", ["0"])],
)
def test_what_cuda_sees(chosen: str | None, seen: list[str]) -> None:
    environ = {} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen}
    assert visible_gpus(environ, lambda: 2) == seen


def _nvidia_smi(folder: Path, script: str) -> None:
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "nvidia-smi").chmod(0o755)


def test_gpus_are_counted_without_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    _nvidia_smi(tmp_path, 'echo "GPU 0: H100 (UUID: a)"; echo "  MIG 1g"; echo "GPU 1: H100"')
    assert visible_gpus({}) == ["0", "1"]


def test_a_machine_without_nvidias_tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    devices = sorted(Path("/dev").glob("nvidia[0-9]*"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert len(visible_gpus({})) == len(devices)
    _nvidia_smi(tmp_path, "exit 9")
    assert len(visible_gpus({})) == len(devices)


def test_vllms_build_for_cpus_uses_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"CUDA_VISIBLE_DEVICES": "0"}
    monkeypatch.setattr("sys.path", [])
    assert serving_gpus(environ) == []


def test_vllms_build_for_gpus_uses_what_is_visible(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "vllm-0.32.0.dist-info").mkdir()
    (tmp_path / "vllm-0.32.0.dist-info" / "METADATA").write_text("Name: vllm\nVersion: 0.32.0\n")
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert serving_gpus({"CUDA_VISIBLE_DEVICES": "0"}) == ["0"]
