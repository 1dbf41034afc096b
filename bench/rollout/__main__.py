"""python -m bench.rollout --out FILE: rolling restarts, with nothing lost.

Serving: two replicas behind nginx under constant load, each restarted twice. The trainer: stopped,
started and killed while a job runs and a caller watches. FILE gets the figures as JSON; the exit
status is 1 when one of them misses its bound.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.attempt import attempt
from bench.rollout.figures import content
from bench.rollout.serving import roll
from bench.rollout.sizes import QUICK, Sizes
from bench.rollout.training import run_trainer_rounds
from bench.serving import machine
from bench.serving.publish import Publisher
from bench.serving.servers import Folders
from bench.serving.targets import say
from tailorbird.base_model import load_base_model

_BASE = Path(__file__).parents[2] / "examples" / "demo_base"
_QUOTED = ("requests", "restarts", "failed", "watch_gaps", "watch_repeats")


def main() -> int:
    """Run; return 1 when a bound is missed or nothing could be measured."""
    arguments = _arguments()
    sizes = _sizes(arguments)
    return attempt(
        arguments.out,
        "rollout",
        lambda work: _measured(sizes, Folders(work, _BASE)),
        logs="logs",
        tell=_tell,
    )


def _tell(content: dict[str, Any]) -> int:
    for name in _QUOTED:
        say(f"{name:15} {content[name]}")
    for line in content["missed"]:
        say(f"missed: {line}")
    return 1 if content["missed"] else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.rollout", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--quick", action="store_true", help="a smoke test: no figure counts")
    parser.add_argument(
        "--drain-delay",
        type=float,
        metavar="SECONDS",
        help="how long a replica takes calls after SIGTERM; 0 shows what is lost without",
    )
    return parser.parse_args()


def _sizes(arguments: argparse.Namespace) -> Sizes:
    sizes = QUICK if arguments.quick else Sizes()
    if arguments.drain_delay is None:
        return sizes
    return replace(sizes, drain_delay=arguments.drain_delay)


def _measured(sizes: Sizes, folders: Folders) -> dict[str, Any]:
    started, facts = time.monotonic(), machine.facts()
    publisher = Publisher(folders.store_url, load_base_model(str(folders.base), folders.work))
    rolled = roll(folders, publisher, sizes)
    rounds = run_trainer_rounds(folders, sizes)
    return {
        **content(rolled, rounds, sizes),
        "drain_delay": sizes.drain_delay,
        "probe_period": sizes.probe_period,
        "seconds": round(time.monotonic() - started),
        "machine": facts,
    }


if __name__ == "__main__":
    sys.exit(main())
