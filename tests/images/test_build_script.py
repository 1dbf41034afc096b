"""The script that makes the images, as far as it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.images.dockerfile import FOLDER

DIGEST = "sha256:" + "0" * 64


def build(tmp_path: Path, *step: str, base: str | None) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PREFIX": str(tmp_path), "PYTHON": sys.executable}
    if base is not None:
        environment["BASE"] = base
    return subprocess.run(
        [FOLDER / "build.sh", *step], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("step", ["packages", "project", "runtime"])
@pytest.mark.parametrize(
    "base",
    [
        None,
        "",
        "python:3.11-slim",
        f"{DIGEST}",
        f"@{DIGEST}",
        f"python@{DIGEST[:-1]}",
        f"python@{DIGEST}0",
        f"python@{DIGEST.upper()}",
        f"python@{DIGEST} other",
        "python@md5:" + "0" * 64,
    ],
)
def test_a_base_without_digest_is_refused(tmp_path: Path, step: str, base: str | None) -> None:
    refused = build(tmp_path, step, "trainer", "cpu", base=base)

    assert refused.returncode == 1
    assert "is not named by its digest" in refused.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "step",
    [
        (),
        ("check_base", "trainer", "cpu"),
        ("packages", "trainer"),
        ("packages", "trainer", "cpu", "cuda"),
        ("packages", "bench", "cpu"),
        ("packages", "trainer", "rocm"),
    ],
)
def test_an_unknown_step_is_refused(tmp_path: Path, step: tuple[str, ...]) -> None:
    refused = build(tmp_path, *step, base=f"python@{DIGEST}")

    assert refused.returncode == 1
    assert refused.stderr.startswith("known ")
    assert not list(tmp_path.iterdir())


def test_a_base_of_another_python_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "python"
    other.write_text(f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.exit(1)"\n')
    other.chmod(0o755)
    refused = subprocess.run(
        [FOLDER / "build.sh", "packages", "trainer", "cpu"],
        env={
            "PATH": os.environ["PATH"],
            "PREFIX": str(tmp_path / "image"),
            "PYTHON": str(other),
            "BASE": f"debian:13@{DIGEST}",
        },
        capture_output=True,
        text=True,
        check=False,
    )

    assert refused.returncode == 1
    assert "has no Python 3.11" in refused.stderr


def test_nothing_is_built_where_no_prefix_was_named() -> None:
    refused = subprocess.run(
        [FOLDER / "build.sh", "runtime", "trainer", "cpu"],
        env={"PATH": os.environ["PATH"], "BASE": f"python@{DIGEST}"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert refused.returncode == 1
    assert "PREFIX" in refused.stderr
