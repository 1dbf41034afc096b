"""The trainer as a process of its own, on a data folder of the test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

BASE = Path(__file__).parents[2] / "examples" / "demo_base"


@contextmanager
def trainer(
    data_dir: Path,
    *command: str,
    prefix: Sequence[str] = (),
    settings: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Start the trainer, wait until it says where it listens, and end it.

    `settings` are named without their prefix; `prefix` is put before the whole command.
    """
    read, write = os.pipe()
    environment = {
        **os.environ,
        "TAILORBIRD_DATA_DIR": str(data_dir),
        "TAILORBIRD_BASE_MODEL": str(BASE),
        "TAILORBIRD_PORT": "0",
        "TAILORBIRD_METRICS_PORT": "0",
        "TAILORBIRD_LOG_FORMAT": "json",
        **{f"TAILORBIRD_{name}": value for name, value in settings.items()},
    }
    log = (data_dir.parent / "trainer.log").open("ab")
    process = subprocess.Popen(
        [*prefix, sys.executable, "-m", *command], env=environment, stderr=write, stdout=log
    )
    os.close(write)
    lines = os.fdopen(read, "rb")
    try:
        yield process, f"127.0.0.1:{_port(lines, log)}"
    finally:
        process.kill()
        process.wait()
        log.write(lines.read())
        lines.close()
        log.close()


def _port(lines: Iterator[bytes], log: object) -> int:
    for line in lines:
        log.write(line)  # type: ignore[attr-defined]
        if b'"trainer ready"' in line:
            log.flush()  # type: ignore[attr-defined]
            return int(json.loads(line)["port"])
    raise AssertionError(f"the trainer did not start; see {log}")
