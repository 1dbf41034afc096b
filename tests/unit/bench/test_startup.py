"""The bench of the command line's start."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench import startup


def test_it_writes_the_ratios_and_what_they_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "startup.json"
    monkeypatch.setattr(sys, "argv", ["startup", "--out", str(out), "--rounds", "1"])
    assert startup.main() == 0
    found = json.loads(out.read_text())
    best = found["best"]
    for kind in ("wall", "cpu"):
        ratio = best["help"][f"{kind}_seconds"] / best["import_grpc"][f"{kind}_seconds"]
        assert found[f"ratio_help_{kind}"] == pytest.approx(ratio)


def test_a_command_that_fails_is_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(startup._COMMANDS, "help", ["-m", "tailorbird.cli", "--halp"])
    monkeypatch.setattr(sys, "argv", ["startup", "--out", str(tmp_path / "out"), "--rounds", "1"])
    assert startup.main() == 1
