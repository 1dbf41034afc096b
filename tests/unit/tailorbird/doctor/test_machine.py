"""Planted faults of a machine: packages, variables, memory, GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from serving_svc.settings import ServingSettings
from tailorbird.doctor.finding import Finding, Status
from tailorbird.doctor.machine import gpu, memory
from tailorbird.doctor.packages import packages, python_version, satisfies
from tailorbird.doctor.variables import known_variables, variables
from trainer_svc.settings import TrainerSettings

SCRIPT = """
import sys
import tailorbird.cli.doctor
print(*sys.modules)
"""


def by_subject(found: object) -> dict[str, Finding]:
    assert hasattr(found, "__iter__")
    return {one.subject: one for one in found}


def test_every_package_is_of_a_version_that_is_asked_for() -> None:
    found = by_subject(packages())
    assert set(found) == {"packages", "packages: trainer", "packages: serving"}
    assert {one.status for one in found.values()} == {Status.OK}, found
    assert "grpcio 1." in found["packages"].found
    assert "torch 2." in found["packages: trainer"].found


def test_a_package_of_a_wrong_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("peft", "protobuf"):
        info = tmp_path / f"{name}-0.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = by_subject(packages())
    assert found["packages"].found == "protobuf is 0.1, >=6.33.5 is needed"
    assert found["packages: trainer"].status is Status.FAILED
    assert "peft is 0.1, " in found["packages: trainer"].found
    assert "pip install --upgrade 'tailorbird[trainer]'" in found["packages: trainer"].advice


@pytest.mark.parametrize(
    ("version", "range_", "holds"),
    [
        ("2.13.0+cpu", "==2.13.0", True),
        ("2.13.1", "==2.13.0", False),
        ("0.21.10", "<0.22,>=0.21.2", True),
        ("0.22.0", "<0.22,>=0.21.2", False),
        ("0.9", ">=0.10", False),
        ("5", ">=5.0.0", True),
        ("1", "", True),
    ],
)
def test_versions_and_ranges(version: str, range_: str, holds: bool) -> None:
    assert satisfies(version, range_) is holds


def test_a_python_that_is_too_old() -> None:
    (finding,) = python_version((3, 10, 1))
    assert (finding.status, finding.advice) == (Status.FAILED, "take Python 3.11 or newer")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("TAILORBIRD_BASEMODEL", "set it as TAILORBIRD_BASE_MODEL"),
        ("TAILORBRID_BASE_MODEL", "set it as TAILORBIRD_BASE_MODEL"),
        ("TRAINER_PORT", "set it as TAILORBIRD_PORT"),
        ("SERVING_ADAPTER_SLOTS", "set it as TAILORBIRD_ADAPTER_SLOTS"),
        ("TAILORBIRD_TENANTT", "set it as TAILORBIRD_TENANT"),
        ("tailorbird_object_stor", "set it as TAILORBIRD_OBJECT_STORE"),
        ("TAILORBIRD_WHATEVER_ELSE", "docs/reference/settings.md has them all"),
    ],
)
def test_a_variable_that_nothing_reads(name: str, advice: str) -> None:
    (misspelt,) = variables({name: "x", "TAILORBIRD_TENANT": "acme", "PATH": "/bin"})
    assert (misspelt.status, misspelt.found) == (Status.WARNING, f"{name} is read by nothing")
    assert misspelt.advice == advice
    (fine,) = variables({"TAILORBIRD_TENANT": "acme", "PATH": "/bin"})
    assert fine.found == "1 of tailorbird's are set, and each of them is read"


def test_what_is_read_or_was_not_meant_for_us_is_left_alone() -> None:
    fine = {
        "TAILORBIRD_TRAINER_SERVICE_HOST": "10.0.0.1",
        "TAILORBIRD_SERVING_PORT": "tcp://a:1",
        "TAILORBIRD_TRAINER_PORT_50051_TCP_ADDR": "10.0.0.1",
        "TRAINER_NAME": "x",
        "TAILORBIRD_DEBUG": "1",
        "tailorbird_port": "1",
        "TAIL": "x",
        "HOME": "/",
    }
    assert [one.status for one in variables(fine)] == [Status.OK]
    settings = {*TrainerSettings.model_fields, *ServingSettings.model_fields}
    assert {f"TAILORBIRD_{name.upper()}" for name in settings} <= known_variables()


def a_machine(root: Path, free: int, limit: int | None = None, used: int = 0) -> Path:
    (root / "proc").mkdir()
    (root / "sys/fs/cgroup").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 16777216 kB\nMemAvailable: {free * 1024} kB\n")
    if limit is not None:
        (root / "sys/fs/cgroup/memory.max").write_text(str(limit * 2**20))
        (root / "sys/fs/cgroup/memory.current").write_text(str(used * 2**20))
    return root


@pytest.mark.parametrize(
    ("free", "limit", "status", "told"),
    [
        (8192, None, Status.OK, "8.0 GiB free of 16.0 GiB"),
        (2048, None, Status.WARNING, "2.0 GiB free of 16.0 GiB"),
        (512, None, Status.FAILED, "0.5 GiB free of 16.0 GiB"),
        (8192, 3072, Status.WARNING, "2.0 GiB free of 3.0 GiB (the container's limit)"),
    ],
)
def test_memory(tmp_path: Path, free: int, limit: int | None, status: Status, told: str) -> None:
    (finding,) = memory(a_machine(tmp_path, free, limit, used=1024))
    assert (finding.status, finding.found) == (status, told)


def test_a_gpu_that_torch_does_not_find(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    environ = {"PATH": "/nonexistent"}
    (nothing,) = gpu(environ, tmp_path, lambda: "2.13.0", lambda: "")
    assert (nothing.status, "the CPU is used" in nothing.found) == (Status.OK, True)
    (tmp_path / "dev/nvidiactl").touch()
    *_, fine = gpu(environ, tmp_path, lambda: "2.13.0", lambda: "")
    assert (fine.status, fine.found) == (Status.OK, "torch finds it (/dev/nvidiactl)")
    *_, lost = gpu(environ, tmp_path, lambda: "2.13.0", lambda: "the driver is too old")
    assert (lost.status, "the driver is too old" in lost.found) == (Status.FAILED, True)
    assert "nvidia-smi" in lost.advice
    *serving, build = gpu(environ, tmp_path, lambda: "2.13.0+cpu", lambda: "")
    assert (build.status, "install the one for CUDA" in build.advice) == (Status.WARNING, True)
    # Of the build for CPUs, which is what tests have.
    assert [(one.subject, one.status) for one in serving] == [("GPU of serving", Status.WARNING)]


def test_the_base_install_suffices() -> None:
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    heavy = {
        "pydantic",
        "obstore",
        "sqlalchemy",
        "numpy",
        "torch",
        "trainer_svc",
        "prometheus_client",
    }
    assert loaded.isdisjoint(heavy)
