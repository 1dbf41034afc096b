"""The memory of real processes, and what is said of one that took too much."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trainer_svc.dispatch.memory_limit import exceeded, kernel_kills, tree_bytes

MIB = 2**20
TAKES = "import sys; taken = b'x' * {count}; print(flush=True); sys.stdin.read()"
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {TAKES.format(count=100 * MIB)!r}])
child.wait()
"""


@contextmanager
def process(script: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a script until its end of input; it has printed a line."""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as started:
        assert started.stdout is not None
        assert started.stdout.readline()
        yield started
        assert started.stdin is not None
        started.stdin.close()


def test_what_a_process_has_is_counted() -> None:
    with process(TAKES.format(count=100 * MIB)) as large, process(TAKES.format(count=1)) as small:
        assert 100 * MIB < tree_bytes(large.pid) < 200 * MIB
        assert 0 < tree_bytes(small.pid) < 50 * MIB


def test_what_its_children_have_is_its_own() -> None:
    with process(PARENT) as parent:
        assert tree_bytes(parent.pid) > 100 * MIB


def test_a_process_that_is_gone_has_nothing() -> None:
    with process(TAKES.format(count=1)) as gone:
        pass
    assert tree_bytes(gone.pid) == 0


def test_a_file_that_is_mapped_is_no_memory_of_the_process(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"x" * 100 * MIB)
    script = f"""
import mmap, sys
with open({str(tmp_path / "weights")!r}, "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
sum(mapped[::4096]); print(flush=True); sys.stdin.read()
"""
    with process(script) as maps:
        assert tree_bytes(maps.pid) < 50 * MIB


async def test_too_much_is_noticed_and_less_is_not() -> None:
    with process(TAKES.format(count=100 * MIB)) as large:
        assert await exceeded(large.pid, 50 * MIB) > 100 * MIB
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await exceeded(large.pid, 1000 * MIB)


@pytest.mark.parametrize(
    ("group", "events", "kills"),
    [
        ("0::/pod/one", "low 0\noom 4\noom_kill 3\n", 3),
        ("9:memory:/pod\n0::/pod/one", "oom_kill 0", 0),
        ("9:memory:/pod", "oom_kill 3", None),
        ("0::/elsewhere", "oom_kill 3", None),
        ("0::/pod/one", "low 0\noom 4\n", None),
        ("0::/pod/one", "oom_kill", None),
    ],
)
def test_the_kernels_kills_are_read_where_they_are_counted(
    tmp_path: Path, group: str, events: str, kills: int | None
) -> None:
    (tmp_path / "cgroup").write_text(group)
    (tmp_path / "pod" / "one").mkdir(parents=True)
    (tmp_path / "pod" / "one" / "memory.events").write_text(events)
    assert kernel_kills(tmp_path, tmp_path / "cgroup") == kills


def test_without_control_groups_nobody_counts_the_kernels_kills(tmp_path: Path) -> None:
    assert kernel_kills(tmp_path, tmp_path / "none") is None
