"""Folders of processes that may end at any moment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from trainer_svc.dispatch.scratch import Scratch


def test_a_folder_is_there_until_it_is_deleted(tmp_path: Path) -> None:
    mine, other = Scratch.claimed(tmp_path / "scratch"), Scratch.claimed(tmp_path / "scratch")
    (mine.path / "file").write_text("x")
    assert mine.path != other.path
    assert other.path.is_dir()
    mine.delete()
    left = {each.name for each in (tmp_path / "scratch").iterdir()}
    assert left == {other.path.name, f"{other.path.name}.lock"}
    other.delete()
    assert not list((tmp_path / "scratch").iterdir())


def test_what_a_process_that_is_gone_left_is_deleted_by_the_next(tmp_path: Path) -> None:
    script = f"""
import os, pathlib
from trainer_svc.dispatch.scratch import Scratch
left = Scratch.claimed(pathlib.Path({str(tmp_path)!r}))
(left.path / "file").write_text("x")
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    assert len(list(tmp_path.iterdir())) == 2
    mine = Scratch.claimed(tmp_path)
    assert {each.name for each in tmp_path.iterdir()} == {mine.path.name, f"{mine.path.name}.lock"}
    mine.delete()


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    script = f"""
import os, pathlib
from trainer_svc.dispatch.scratch import Scratch
def count(): return len(os.listdir("/proc/self/fd"))
def once(): Scratch.claimed(pathlib.Path({str(tmp_path)!r})).delete()
left = Scratch.claimed(pathlib.Path({str(tmp_path)!r}))
once()
before = count()
once()
assert count() == before, "claimed"
os.close(left._lock)
once()
assert count() == before - 1, "left"
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_what_others_put_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "preflight-1").mkdir()
    (tmp_path / "worker-0.lock").write_text("")
    Scratch.claimed(tmp_path).delete()
    assert {each.name for each in tmp_path.iterdir()} == {"preflight-1", "worker-0.lock"}
