"""Where libraries write their caches: elsewhere, only where the home folder cannot be written."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tailorbird.process import give_home

OFF = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without an entry in the system's list."""

    def unknown(uid: int) -> object:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)


def given(tmp_path: Path, **environ: str) -> dict[str, str]:
    environ["TAILORBIRD_DATA_DIR"] = str(tmp_path / "data")
    give_home(environ)
    return environ


def test_a_home_that_can_be_written_keeps_its_caches(tmp_path: Path) -> None:
    before = {"HOME": str(tmp_path), "USER": "me", "DO_NOT_TRACK": "0"}
    after = given(tmp_path, **before)
    assert after == OFF | before | {"TAILORBIRD_DATA_DIR": str(tmp_path / "data")}


@pytest.mark.usefixtures("nobody")
@pytest.mark.parametrize("home", ["", "/", "/nowhere"])
def test_without_a_home_everything_goes_to_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    environ = given(tmp_path, **({"HOME": home} if home else {}), TRITON_HOME="/mine")
    place = tmp_path / "data" / "home"
    assert environ["HOME"] == str(place)
    assert environ["USER"] == f"user{os.getuid()}"
    assert environ["XDG_CACHE_HOME"] == str(place / ".cache")
    assert environ["TRITON_HOME"] == "/mine"
    assert "HF_HOME" not in environ


@pytest.mark.usefixtures("nobody")
@pytest.mark.parametrize("variable", ["LOGNAME", "USER", "LNAME", "USERNAME"])
def test_a_user_named_by_the_environment_keeps_the_name(tmp_path: Path, variable: str) -> None:
    environ = given(tmp_path, **{"HOME": str(tmp_path), variable: "me"})
    assert environ.get("USER") == ("me" if variable == "USER" else None)


def test_a_home_that_can_only_be_read_is_still_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    (tmp_path / ".cache" / "huggingface").mkdir(parents=True)
    environ = given(tmp_path, HOME=str(tmp_path), USER="me")
    assert environ["HOME"] == str(tmp_path)
    assert environ["HF_HOME"] == str(tmp_path / ".cache" / "huggingface")
    assert environ["XDG_CACHE_HOME"] == str(tmp_path / "data" / "home" / ".cache")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_imports_ends_the_process_quietly(number: int) -> None:
    code = f"""
import os
from tailorbird.process import prepare_process
prepare_process()
os.kill(os.getpid(), {int(number)})
raise SystemExit("it goes on")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_nothing_large_is_imported_before() -> None:
    code = """
import sys
import tailorbird.process
print(sorted({"structlog", "pydantic", "grpc", "torch", "vllm"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
