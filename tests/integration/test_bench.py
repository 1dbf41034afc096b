"""The bench itself, in its smallest form, against the real servers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.serving.report import ratios

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]


def _run(out: Path, *arguments: str) -> dict[str, Any]:
    subprocess.run(
        [sys.executable, "-m", "bench.serving", "--out", str(out), "--quick", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
        timeout=1100,
    )
    content: dict[str, Any] = json.loads(out.read_text())
    return content


def test_the_main_run_measures_everything_it_names(tmp_path: Path) -> None:
    content = _run(tmp_path / "serving.json")

    assert content["failures"] == []
    assert [name for name in ratios({}) if content[name] is None] == []
    for pair in content["cells"]["base"] + content["cells"]["8_adapters"]:
        # Of fixed lengths: 4 streams of 8 tokens.
        assert {told["tokens"] for told in pair.values()} == {32}
    assert (tmp_path / "serving.svg").read_text().startswith("<svg")


def test_swaps_are_counted_and_judged(tmp_path: Path) -> None:
    content = _run(tmp_path / "swaps.json", "--swaps")

    assert content["swaps"] >= 10
    assert content["requests"] >= 20
    assert (content["failed"], content["mismatched"]) == (0, 0)
