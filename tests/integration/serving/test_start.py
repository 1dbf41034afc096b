"""Bases that cannot be served end the start with one clear line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.serving.world import make_base


def cut_weights(base: Path) -> None:
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])


def random_weights(base: Path) -> None:
    (base / "model.safetensors").write_bytes(os.urandom(100))


def no_tokenizer(base: Path) -> None:
    for file in base.glob("tokenizer*"):
        file.unlink()


@pytest.mark.parametrize("spoil", [cut_weights, random_weights, no_tokenizer])
def test_a_base_that_cannot_be_loaded_is_told(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    make_base(tmp_path / "base")
    spoil(tmp_path / "base")
    environment = {
        **os.environ,
        "TAILORBIRD_BASE_MODEL": str(tmp_path / "base"),
        "TAILORBIRD_DATA_DIR": str(tmp_path / "data"),
        "TAILORBIRD_PORT": "0",
        "TAILORBIRD_METRICS_PORT": "0",
    }
    done = subprocess.run(
        [sys.executable, "-m", "serving_svc"],
        env=environment, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert '"BASE_UNUSABLE"' in done.stderr
    assert "Traceback" not in done.stderr
