"""python -m bench.jobs --out FILE: the queue of 500 tenants, and jobs under trainers that die.

The queue: claims, pages, creates and watches on a PostgreSQL with 10,000 queued jobs. With --soak
N: N tiny jobs through two trainers, of which one, or its worker, is killed again and again. FILE
gets the figures as JSON; the exit status is 1 when one of them misses its bound.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.attempt import attempt
from bench.jobs import figures, soak_figures
from bench.jobs.queue import measure
from bench.jobs.sizes import QUICK, QUICK_SOAK, Sizes, SoakSizes
from bench.jobs.soak import soak
from bench.serving import machine
from bench.serving.targets import say

_BASE = Path(__file__).parents[2] / "examples" / "demo_base"


def main() -> int:
    """Run; return 1 when a bound is missed or nothing could be measured."""
    arguments = _arguments()
    return attempt(
        arguments.out,
        "jobs",
        lambda work: _measured(work, arguments.soak, quick=arguments.quick),
        logs="logs",
        tell=lambda told: _tell(told, quick=arguments.quick and not arguments.soak),
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.jobs", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--soak", type=_count, metavar="N", help="run so many tiny jobs instead")
    parser.add_argument("--quick", action="store_true", help="a smoke test: no time counts")
    return parser.parse_args()


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def _measured(work: Path, jobs: int | None, *, quick: bool) -> dict[str, Any]:
    started, facts = time.monotonic(), machine.facts()
    if jobs is None:
        sizes = QUICK if quick else Sizes()
        told = figures.content(measure(work, sizes)) | {"sizes": asdict(sizes)}
    else:
        under = QUICK_SOAK if quick else SoakSizes()
        soaked = soak(work, _BASE, jobs, under)
        told = soak_figures.content(soaked, jobs, under) | {"sizes": asdict(under)}
    return {**told, "bench_seconds": round(time.monotonic() - started), "machine": facts}


def _tell(content: dict[str, Any], *, quick: bool) -> int:
    for name, value in content.items():
        if value is None or isinstance(value, int | float):
            say(f"{name:28} {value}")
    for line in content["missed"]:
        say(f"missed: {line}")
    return 1 if content["missed"] and not quick else 0


if __name__ == "__main__":
    sys.exit(main())
