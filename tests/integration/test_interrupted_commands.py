"""The operator's commands, as processes that a signal ends: no script takes them for done."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.unit.trainer_svc.housekeeping.test_command import filled

PATIENCE = 60.0


def start(folder: Path, *arguments: str, **settings: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "TAILORBIRD_DATA_DIR": str(folder),
        "TAILORBIRD_BASE_MODEL": "none",
        **{f"TAILORBIRD_{name}": value for name, value in settings.items()},
    }
    return subprocess.Popen(
        [sys.executable, "-m", "trainer_svc", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def interrupted(process: subprocess.Popen[str], number: int) -> str:
    """Interrupt a command, and return the one line that says so."""
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (128 + number, "")
    (said,) = (each for each in err.splitlines() if "interrupted by" in each)
    return str(json.loads(said)["event"])


@pytest.mark.parametrize(
    ("number", "arguments"),
    [
        (signal.SIGINT, ["collect"]),
        (signal.SIGTERM, ["erase", "acme"]),
        (signal.SIGINT, ["migrate", "--wait=60"]),
        (signal.SIGTERM, ["migrate", "--wait=60"]),
    ],
)
def test_an_interrupted_command_says_so_and_does_not_exit_0(
    tmp_path: Path, number: int, arguments: list[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(PATIENCE)
        url = f"postgresql+asyncpg://u@127.0.0.1:{silent.getsockname()[1]}/x"
        process = start(tmp_path, *arguments, DATABASE_URL=url)
        connection, _ = silent.accept()
        with connection:
            said = interrupted(process, number)
    name = signal.Signals(number).name
    assert said == f"{' '.join(arguments)}: interrupted by {name} before its end; run it again"


def test_an_erasure_that_waits_for_jobs_is_interrupted_and_run_again(tmp_path: Path) -> None:
    asyncio.run(filled(tmp_path))
    asked = "SELECT count(*) FROM jobs WHERE cancel_requested"
    with closing(sqlite3.connect(tmp_path / "trainer.db")) as database:
        # Somebody has the job, and does not answer.
        database.execute("UPDATE jobs SET state = 'RUNNING' WHERE tenant = 'globex'")
        database.commit()
        process = start(tmp_path, "erase", "globex", "--cancel-jobs")
        until = time.monotonic() + PATIENCE
        while not database.execute(asked).fetchone()[0]:
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.05)
        assert "erase globex --cancel-jobs" in interrupted(process, signal.SIGTERM)
        database.execute("UPDATE jobs SET state = 'CANCELLED' WHERE tenant = 'globex'")
        database.commit()
    again = start(tmp_path, "erase", "globex")
    out, _ = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0
    assert "tenants/globex is erased" in out
