"""On what `auto` trains, and what is said of a GPU that it does not use."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailorbird.devices import Device, chosen_device, gpu_signs

CUDA_BUILD, CPU_BUILD = "2.13.0+cu130", "2.13.0+cpu"


def machine(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def choose(root: Path, torch: str = CUDA_BUILD, problem: str = "", **environ: str) -> Device:
    return chosen_device(
        {"PATH": str(root / "bin"), **environ}, root, lambda: torch, lambda: problem
    )


def test_without_any_sign_of_a_gpu_it_is_the_cpu(tmp_path: Path) -> None:
    assert choose(tmp_path) == Device("cpu", "this machine shows no GPU")


def test_the_drivers_device_is_enough(tmp_path: Path) -> None:
    device = choose(machine(tmp_path, "dev/nvidiactl"), problem="not asked")
    assert device == Device("cuda", "/dev/nvidiactl is there")


@pytest.mark.parametrize("sign", ["dev/dxg", "proc/driver/nvidia/version", "dev/nvhost-gpu"])
def test_another_sign_is_enough_where_torch_finds_the_gpu(tmp_path: Path, sign: str) -> None:
    assert choose(machine(tmp_path, sign)) == Device("cuda", f"torch finds a GPU (/{sign})")
    device = choose(tmp_path, problem="RuntimeError: no driver")
    assert (device.name, device.why) == ("cpu", "torch finds no GPU")
    assert f"this machine shows a GPU (/{sign})" in device.warning
    assert "torch says RuntimeError: no driver" in device.warning


def test_a_torch_for_cpus_leaves_a_gpu_unused_and_says_so(tmp_path: Path) -> None:
    device = choose(machine(tmp_path, "dev/nvidiactl"), torch=CPU_BUILD)
    assert (device.name, device.why) == ("cpu", f"torch {CPU_BUILD} is the build for CPUs")
    assert "install the one for CUDA" in device.warning


@pytest.mark.parametrize("hidden", ["", "-1", "-1,0"])
def test_whoever_hides_the_gpus_has_the_cpu_without_a_warning(tmp_path: Path, hidden: str) -> None:
    device = choose(machine(tmp_path, "dev/nvidiactl"), CUDA_VISIBLE_DEVICES=hidden)
    assert device == Device("cpu", f"CUDA_VISIBLE_DEVICES={hidden} hides every GPU")
    assert choose(tmp_path, CUDA_VISIBLE_DEVICES="0").name == "cuda"


@pytest.mark.parametrize(
    ("script", "signs"),
    [
        ("echo 'GPU 0: NVIDIA H100 (UUID: GPU-1)'", ["nvidia-smi"]),
        ("echo 'No devices were found'", []),
        ("echo 'GPU 0: lost'; exit 9", []),
    ],
)
def test_only_what_nvidias_tool_lists_counts(tmp_path: Path, script: str, signs: list[str]) -> None:
    tool = machine(tmp_path, "bin/nvidia-smi") / "bin" / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    assert gpu_signs({"PATH": str(tool.parent)}, tmp_path) == signs
