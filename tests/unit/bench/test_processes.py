from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from bench.serving.process_tree import tree_cpu_seconds
from bench.serving.processes import BenchFailed, LineChild, Process

_ECHO = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"
_FORK = (
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print('{\"pid\": %d}' % child.pid, flush=True)\n"
    "time.sleep(600)"
)


def _process(tmp_path: Path, code: str) -> Process:
    return Process("the child", ["-c", code], os.environ, tmp_path / "log", piped=True)


def test_a_line_is_answered_by_a_line(tmp_path: Path) -> None:
    child = LineChild(_process(tmp_path, _ECHO))
    try:
        child.send('{"a": 1}')
        child.send('{"error": "the cell took too long"}')
        assert child.receive(60) == {"a": 1}
        with pytest.raises(BenchFailed, match="the cell took too long"):
            child.receive(60)
    finally:
        child.stop()


def test_the_last_words_of_a_child_are_heard(tmp_path: Path) -> None:
    child = LineChild(_process(tmp_path, "print('{}')"))
    try:
        child.process.wait(60)
        assert child.receive(60) == {}
    finally:
        child.stop()


def test_a_child_that_dies_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    child = LineChild(_process(tmp_path, "import sys; sys.exit('out of memory')"))
    try:
        with pytest.raises(BenchFailed, match=r"(?s)the child ended with status 1.*out of memory"):
            child.receive(60)
    finally:
        child.stop()


def test_a_server_that_dies_meanwhile_ends_the_wait(tmp_path: Path) -> None:
    child = LineChild(_process(tmp_path, "input()"))
    (tmp_path / "server").mkdir()
    server = _process(tmp_path / "server", "import sys; sys.exit('the engine died')")
    try:
        with pytest.raises(BenchFailed, match="the engine died"):
            child.receive(60, [server])
    finally:
        child.stop()
        server.stop()


def test_a_child_without_an_answer_ends_the_wait(tmp_path: Path) -> None:
    child = LineChild(_process(tmp_path, "input()"))
    try:
        with pytest.raises(BenchFailed, match="gave no answer"):
            child.receive(0.1)
    finally:
        child.stop()


def test_stopping_ends_the_children_of_a_child(tmp_path: Path) -> None:
    child = LineChild(_process(tmp_path, _FORK))
    grandchild = child.receive(60)["pid"]

    child.stop()

    # Killed with its group; whoever adopted it may not have waited for it yet.
    deadline = time.monotonic() + 30
    while _is_alive(grandchild):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_cpu_time_is_that_of_the_whole_tree(tmp_path: Path) -> None:
    before = tree_cpu_seconds(os.getpid())
    child = LineChild(
        _process(
            tmp_path,
            "import time\nwhile time.process_time() < 0.3: pass\nprint('{}', flush=True)\ninput()",
        )
    )
    try:
        child.receive(60)
        assert tree_cpu_seconds(child.process.pid) >= 0.2
        assert tree_cpu_seconds(os.getpid()) - before >= 0.2
    finally:
        child.stop()
    assert tree_cpu_seconds(child.process.pid) == 0.0


def _is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
