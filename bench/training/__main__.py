"""python -m bench.training --out FILE: our training engine beside PEFT and TRL.

FILE gets every pair, the medians and the named ratios as JSON.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.attempt import attempt
from bench.serving import machine
from bench.serving.targets import say
from bench.training import report
from bench.training.parts import Parts
from bench.training.sizes import QUICK, Sizes

_BASE = Path(__file__).parents[2] / "examples" / "demo_base"
_PARTS = ("steps", "steps_100m", "single", "wall", "packing", "loss")


def main() -> int:
    """Run what is asked for; return 1 when it could not be measured."""
    arguments = _arguments()
    return attempt(arguments.out, "training", lambda work: _measured(arguments, work))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.training", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--base", type=Path, default=_BASE, help="the demo base's folder")
    parser.add_argument("--quick", action="store_true", help="a smoke test: no figure counts")
    parser.add_argument("--only", nargs="+", choices=_PARTS, default=_PARTS, help="some parts")
    parser.add_argument(
        "--threads",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="of every process; as many as there are cores, unless told otherwise",
    )
    return parser.parse_args()


def _measured(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    started, facts = time.monotonic(), machine.facts()
    sizes = QUICK if arguments.quick else Sizes()
    parts = Parts(arguments.base.resolve(), sizes, arguments.threads, work)
    seconds = {}
    for name, run in parts.by_name().items():
        if name in arguments.only:
            began = time.monotonic()
            run()
            seconds[name] = round(time.monotonic() - began)
    figures, medians = report.ratios(parts.results), report.medians(parts.results)
    _tell(figures, medians)
    return {
        **figures,
        "missed": report.missed(figures),
        "medians": medians,
        "pairs": parts.results,
        "number_formats": parts.formats,
        "settings": {**asdict(sizes), "threads": arguments.threads, "quick": arguments.quick},
        "seconds": round(time.monotonic() - started),
        "seconds_by_part": seconds,
        "machine": facts,
    }


def _tell(figures: dict[str, float | None], medians: dict[str, Any]) -> None:
    for line in report.table(medians):
        say(line)
    for name, value in figures.items():
        say(f"{name:34} {'not measured' if value is None else format(value, '.3f')}")
    for line in report.missed(figures):
        say(f"missed: {line}")


if __name__ == "__main__":
    sys.exit(main())
