"""What a bench leaves behind, however it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.attempt import attempt
from bench.serving.processes import BenchFailed

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where benches work; signals stay as they are."""
    found = tmp_path / "work"
    found.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(found))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    return found


def measuring(error: BaseException | None = None) -> Callable[[Path], dict[str, Any]]:
    def measure(work: Path) -> dict[str, Any]:
        for name in ("logs", "store"):
            (work / name).mkdir()
            (work / name / "file").write_text(name)
        if error is not None:
            raise error
        return {"figure": 2}

    return measure


def left(folder: Path) -> list[str]:
    return sorted(path.name for work in folder.iterdir() for path in work.iterdir())


def test_what_was_measured_is_written_and_nothing_else_stays(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out.json"
    assert attempt(out, "name", measuring(), logs="logs") == 0
    assert json.loads(out.read_text()) == {"figure": 2}
    assert list(folder.iterdir()) == []


def test_a_bound_that_is_missed_is_written_and_keeps_the_logs(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert attempt(out, "name", measuring(), logs="logs", tell=lambda told: told["figure"]) == 2
    assert out.exists()
    assert left(folder) == ["logs"]


@pytest.mark.parametrize(
    ("error", "status"), [(BenchFailed("a server died"), 1), (KeyboardInterrupt(), 130)]
)
@pytest.mark.parametrize(("logs", "kept"), [("logs", ["logs"]), (".", ["logs", "store"])])
def test_what_could_not_be_measured_leaves_its_logs(
    folder: Path, tmp_path: Path, error: BaseException, status: int, logs: str, kept: list[str]
) -> None:
    out = tmp_path / "out.json"
    assert attempt(out, "name", measuring(error), logs=logs) == status
    assert not out.exists()
    assert left(folder) == kept


def test_an_error_that_nobody_foresaw_leaves_its_logs(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        attempt(tmp_path / "out.json", "name", measuring(ZeroDivisionError()), logs="logs")
    assert left(folder) == ["logs"]
