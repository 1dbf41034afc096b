"""python -m bench.startup --out FILE: how long `tailorbird --help` takes beside `import grpc`.

Each in a process of its own, in turn, --rounds times; the best of each counts. FILE gets the
ratios, the seconds behind them and the machine, as JSON.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.attempt import attempt
from bench.serving import machine
from bench.serving.processes import BenchFailed
from bench.serving.targets import say

_BESIDE = "import_grpc"
_COMMANDS = {
    _BESIDE: ["-c", "import grpc"],
    "help": ["-m", "tailorbird.cli", "--help"],
    "version": ["-m", "tailorbird.cli", "--version"],
    "jobs_help": ["-m", "tailorbird.cli", "jobs", "--help"],
}


def main() -> int:
    """Measure and print; return 1 when it could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.startup", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--rounds", type=int, default=10, help="processes of each kind")
    arguments = parser.parse_args()
    return attempt(arguments.out, "startup", lambda _: _measured(arguments.rounds))


def _measured(rounds: int) -> dict[str, Any]:
    facts = machine.facts()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in _COMMANDS}
    # The first round fills the caches of files.
    for number in range(rounds + 1):
        for name, arguments in _COMMANDS.items():
            taken = _taken(arguments)
            if number:
                times[name].append(taken)
    best = {
        name: {"wall_seconds": min(wall), "cpu_seconds": min(cpu)}
        for name, (wall, cpu) in ((name, zip(*all_, strict=True)) for name, all_ in times.items())
    }
    figures = {
        f"ratio_{name}_{kind}": best[name][f"{kind}_seconds"] / best[_BESIDE][f"{kind}_seconds"]
        for name in _COMMANDS
        if name != _BESIDE
        for kind in ("wall", "cpu")
    }
    for name, figure in figures.items():
        say(f"{name:24} {figure:.2f}")
    return {**figures, "best": best, "rounds": rounds, "machine": facts}


def _taken(arguments: list[str]) -> tuple[float, float]:
    """Run Python so, and return its seconds by the clock and on the processor."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise BenchFailed(f"{arguments} ended with {process.returncode}")
    return wall, used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
