"""The demo's tasks are learned whatever the seed, and however many threads sum the products."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("threads", [1, 2])
def test_every_seed_gives_good_adapters(threads: int, capfd: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "examples.demo.seeds", "--threads", str(threads)]
    with capfd.disabled():  # the table is for who waits for it
        done = subprocess.run(command, check=False)
    assert done.returncode == 0
