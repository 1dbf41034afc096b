"""The bench itself, in its smallest form, against the real servers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.http import ratios as http_ratios
from bench.serving.report import ratios
from bench.training.report import ratios as training_ratios

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]


def _run(out: Path, *arguments: str, bench: str = "bench.serving") -> dict[str, Any]:
    subprocess.run(
        [sys.executable, "-m", bench, "--out", str(out), "--quick", *arguments],
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


def test_openais_api_is_measured_over_both_servers(tmp_path: Path) -> None:
    content = _run(tmp_path / "http.json", bench="bench.http")

    assert content["failures"] == []
    assert [name for name in http_ratios({}) if content[name] is None] == []
    for cell in ("base", "chat"):
        (pair,) = content["cells"][cell]
        assert {name: told["tokens"] for name, told in pair.items()} == {
            "grpc": 32,
            "ours": 32,
            "peer": 32,
        }


def test_training_measures_everything_it_names(tmp_path: Path) -> None:
    content = _run(tmp_path / "training.json", bench="bench.training")

    assert [name for name in training_ratios({}) if content[name] is None] == []
    for part, pairs in content["pairs"].items():
        for pair in pairs:
            assert len({told["tokens"] for told in pair.values()}) == 1, part
    sides = content["medians"]["wall"]
    assert min(side["peak_mib"] for side in sides.values()) > 100
    assert content["settings"]["quick"] is True


def test_swaps_are_counted_and_judged(tmp_path: Path) -> None:
    content = _run(tmp_path / "swaps.json", "--swaps")

    assert content["swaps"] >= 10
    assert content["requests"] >= 20
    assert (content["failed"], content["mismatched"]) == (0, 0)


def test_a_rolling_restart_loses_nothing(tmp_path: Path) -> None:
    content = _run(tmp_path / "rollout.json", bench="bench.rollout")

    assert content["missed"] == []
    assert content["requests"] >= 60
    assert (content["restarts"], content["trainer_restarts"]) == (2, 2)
    assert (content["failed"], content["resent"]) == (0, 0)
    assert (content["watch_gaps"], content["watch_repeats"]) == (0, 0)
    assert content["job_states"] == ["SUCCEEDED"]
    stopped, killed = content["jobs"][0]["restarts"]
    # Told to stop, it keeps the step it was at; killed, what its checkpoints have.
    assert stopped["resumed_from_step"] >= stopped["last_step_seen"]
    assert stopped["ended"]["status"] == 0
    assert killed["ended"]["status"] == -9
    assert killed["resumed_from_step"] >= 5


def test_the_queue_is_measured_whole(tmp_path: Path) -> None:
    content = _run(tmp_path / "jobs.json", bench="bench.jobs")

    assert [name for name, value in content.items() if value is None] == []
    counts = content["counts"]
    assert counts["claim"] == 2 * content["sizes"]["claims"]
    assert counts["event_to_watcher"] == content["sizes"]["events"]
    assert counts["list_later_page"] > 0


def test_a_soak_loses_nothing_and_does_nothing_twice(tmp_path: Path) -> None:
    content = _run(tmp_path / "soak.json", "--soak", "30", bench="bench.jobs")

    assert content["missed"] == []
    assert (content["terminal"], content["published"], content["failed"]) == (30, 30, {})
    assert (content["duplicate_lines"], content["leaked_lines"]) == ([], [])
    assert sum(content["kills"].values()) >= 1
