"""python -m bench.judgement --out FILE: faults that are planted are found, and what judging costs.

FILE gets the named figures with what they are made of, as JSON.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.attempt import attempt
from bench.judgement import beside, cost, report
from bench.judgement.faults import figures
from bench.judgement.sweep import SweepBench
from bench.judgement.trainer import Trainer
from bench.judgement.uploads import check_uploads
from bench.judgement.versions import check_versions
from bench.serving import machine
from bench.serving.targets import say
from examples.demo.tenants import BATCH_TOKENS, EXAMPLES, FIRST, SUPPORT

_PARTS = ("faults", "beside", "sweep")
_RUNS = 2
"""Of each job whose judging is timed."""
_SWEEP_RECORDS = 320


def main() -> int:
    """Run what is asked for; return 1 when it could not be measured or a bound is not kept."""
    parser = argparse.ArgumentParser(prog="python -m bench.judgement", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--base", type=Path, default=EXAMPLES / "demo_base", help="a base's folder")
    parser.add_argument("--only", nargs="+", choices=_PARTS, default=_PARTS, help="some parts")
    arguments = parser.parse_args()
    return attempt(
        arguments.out,
        "judgement",
        lambda work: _measured(arguments, work),
        tell=lambda content: int(bool(report.unmet(content))),
    )


def _measured(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    started, facts = time.monotonic(), machine.facts()
    base: Path = arguments.base.resolve()
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "faults": lambda: _faults(base, work / "faults"),
        "beside": lambda: _beside(base, work / "beside"),
        "sweep": lambda: _sweep(base, work / "sweep"),
    }
    content: dict[str, Any] = {}
    seconds, loads = {}, {}
    for name, run in parts.items():
        if name in arguments.only:
            began = time.monotonic()
            content |= run()
            seconds[name] = round(time.monotonic() - began)
            loads[name] = os.getloadavg()[0]
    for line in report.lines(content):
        say(line)
    return {
        **content,
        "unmet": report.unmet(content),
        "seconds": round(time.monotonic() - started),
        "seconds_by_part": seconds,
        "load_average_after_part": loads,
        "machine": facts,
    }


def _faults(base: Path, work: Path) -> dict[str, Any]:
    """Check uploads, the honest jobs, which are timed, and then planted ones against these."""
    with Trainer(base, work) as trainer:
        planted, clean = check_uploads(trainer)
        costs, honest = cost.measure(trainer, _RUNS)
        planted += check_versions(trainer, SUPPORT.folder)
    told = cost.told(costs)
    return {
        **figures(planted, [*clean, *honest]),
        "judging_share": report.judging_share(told),
        "judging": told,
    }


def _beside(base: Path, work: Path) -> dict[str, Any]:
    with Trainer(base, work) as trainer:
        told = beside.told(beside.measure(trainer))
    return {"throughput_while_judging": told["over_before"], "beside": told}


def _sweep(base: Path, work: Path) -> dict[str, Any]:
    work.mkdir()
    data = work / "data.jsonl"
    lines = SUPPORT.file(FIRST).read_text(encoding="utf-8").splitlines(keepends=True)
    data.write_text("".join(lines[:_SWEEP_RECORDS]), encoding="utf-8")
    cores = len(os.sched_getaffinity(0))
    bench = SweepBench(base, data, 1, BATCH_TOKENS, cores, work)
    found = bench.measured(1)
    return {"sweep_ratio": found["sweep_ratio"], "sweep": found["pairs"]}


if __name__ == "__main__":
    sys.exit(main())
