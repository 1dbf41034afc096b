"""The images' locks are whole: every package with its needs, at one version, by its hashes."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.images.dockerfile import FOLDER

ROOT = FOLDER.parents[1]
LOCKS = ROOT / "requirements"
EXTRAS = {
    "gpu-trainer": ("service", "privacy", "trainer", "http", "ray"),
    "gpu-serving": ("service", "privacy", "serving", "http"),
}
SERVICES = {"gpu-trainer": "trainer", "gpu-serving": "serving"}
HASHED = [*SERVICES, "build"]
# Where a CUDA build asks for another version than the CPU's, which the CPU's lock cannot have.
DIFFERS = {"gpu-trainer": {"triton"}, "gpu-serving": {"triton", "apache-tvm-ffi"}}

_BLOCK = re.compile(
    r"^(?P<name>\S+)==(?P<version>\S+)(?P<marker> ; [^\\\n]+)?"
    r"(?P<hashes>(?: \\\n    --hash=sha256:[0-9a-f]{64})+)"
    r"(?:\n    # needs (?P<needs>[^\n]+))?\n",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Pin:
    version: str
    hashes: frozenset[str]
    needs: frozenset[str]
    marker: str


def read(lock: str) -> dict[str, Pin]:
    """Read a lock, every line of which must be known."""
    text = (LOCKS / f"{lock}.txt").read_text()
    body = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    assert not _BLOCK.sub("", body), f"{lock}: lines that pin nothing by hash"
    return {
        match["name"]: Pin(
            match["version"],
            frozenset(re.findall(r"sha256:(\w+)", match["hashes"])),
            frozenset((match["needs"] or "").split()),
            match["marker"] or "",
        )
        for match in _BLOCK.finditer(body)
    }


def cpu_pins() -> dict[str, str]:
    text = (LOCKS / "cpu.txt").read_text()
    return {
        canonicalize_name(name): version
        for name, version in re.findall(r"^(\S+)==(\S+)$", text, re.MULTILINE)
    }


def asked(lock: str) -> list[Requirement]:
    """What pyproject.toml asks for, for a lock."""
    if lock == "build":
        return [Requirement(one) for one in _pyproject()["build-system"]["requires"]]
    project = _pyproject()["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for name in EXTRAS[lock] for line in extras[name])]
    return [one for one in map(Requirement, lines) if one.name != "tailorbird"]


def _pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("lock", HASHED)
def test_what_the_project_asks_for_is_pinned_within_its_bounds(lock: str) -> None:
    pins = read(lock)
    for requirement in asked(lock):
        pin = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin.version), requirement


@pytest.mark.parametrize("lock", HASHED)
def test_every_need_is_pinned_and_every_pin_is_needed(lock: str) -> None:
    pins = read(lock)
    reached: set[str] = set()
    waiting = [str(canonicalize_name(one.name)) for one in asked(lock)]
    while waiting:
        name = waiting.pop()
        assert name in pins, f"{lock} has no {name}"
        if name not in reached:
            reached.add(name)
            waiting += pins[name].needs

    assert reached == set(pins)


@pytest.mark.parametrize("lock", HASHED)
def test_a_package_at_hand_in_the_same_version_needs_what_the_lock_says(lock: str) -> None:
    compared = 0
    for name, pin in read(lock).items():
        if (needs := _installed_needs(name, pin.version)) is None:
            continue
        compared += 1
        # An extra that another package asks for brings more.
        assert needs <= pin.needs, name
    assert compared >= {"build": 6, "gpu-trainer": 50, "gpu-serving": 140}[lock]


def _installed_needs(name: str, version: str) -> set[str] | None:
    try:
        installed = distribution(name)
    except PackageNotFoundError:
        return None
    # Another build of the same version, like torch for a CPU, needs something else.
    if installed.version != version:
        return None
    requirements = [Requirement(one) for one in installed.requires or []]
    return {
        str(canonicalize_name(one.name))
        for one in requirements
        if one.marker is None or one.marker.evaluate({"extra": ""})
    }


@pytest.mark.parametrize("lock", HASHED)
def test_versions_are_those_the_tests_run_with(lock: str) -> None:
    cpu = cpu_pins()
    differing = {
        name for name, pin in read(lock).items() if name in cpu and cpu[name] != pin.version
    }

    assert differing == DIFFERS.get(lock, set())


@pytest.mark.parametrize("lock", SERVICES)
def test_torch_is_the_cuda_build_for_both_architectures(lock: str) -> None:
    pins = read(lock)

    # One wheel an architecture: a lock made of files at hand would know one.
    assert len(pins["torch"].hashes) == 2
    assert {"nvidia-cublas", "nvidia-cudnn-cu13", "triton"} <= pins["torch"].needs | {
        need for one in pins["torch"].needs for need in pins[one].needs
    }


def test_no_hash_is_that_of_a_torch_at_hand() -> None:
    at_hand = list(_torch_wheels_at_hand())
    if not at_hand:
        pytest.skip("pip is told of no torch at hand")

    locked = {one for lock in SERVICES for one in read(lock)["torch"].hashes}
    for wheel in at_hand:
        with wheel.open("rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() not in locked, wheel


def _torch_wheels_at_hand() -> Iterator[Path]:
    said = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    folders = {one for line in re.findall(r"find-links='(.*)'", said) for one in line.split()}
    for folder in folders:
        yield from Path(folder).glob("torch-*.whl")


def test_the_gpu_serving_lock_has_what_its_image_points_to() -> None:
    pins = read("gpu-serving")

    assert {"nvidia-cuda-nvcc", "ninja", "triton"} <= set(pins)
    assert pins["nvidia-cuda-nvcc"].version.startswith("13.")


@pytest.mark.parametrize("lock", HASHED)
def test_no_lock_names_an_index(lock: str) -> None:
    assert "://" not in (LOCKS / f"{lock}.txt").read_text()


def test_a_cpu_lock_is_the_part_of_cpu_txt_that_its_service_needs(tmp_path: Path) -> None:
    script = ROOT / "tools" / "image_locks.py"
    subprocess.run([sys.executable, script, tmp_path], check=True, capture_output=True)

    for lock in ("cpu-trainer.txt", "cpu-serving.txt"):
        assert (tmp_path / lock).read_text() == (LOCKS / lock).read_text(), "run `make lock-images`"
