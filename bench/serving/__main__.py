"""python -m bench.serving --out FILE: our serving beside vLLM's own OpenAI server.

FILE gets every pair, the medians and the ratios as JSON; FILE with .svg for its ending the picture.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.attempt import attempt
from bench.serving import long, machine, picture, report
from bench.serving.cells import Cells
from bench.serving.environment import common_environment
from bench.serving.processes import Process
from bench.serving.publish import Publisher
from bench.serving.servers import Folders
from bench.serving.sizes import QUICK, Sizes
from bench.serving.swaps import run_swaps
from bench.serving.targets import say
from tailorbird.base_model import load_base_model

_BASE = Path(__file__).parents[2] / "examples" / "demo_base"
_MAIN = ("pairs", "cap_64", "oversubscribed", "flood", "cold")
_MAKING_SECONDS = 900.0


def main() -> int:
    """Run what is asked for; return 1 when it could not be measured."""
    arguments = _arguments()
    base = arguments.base.resolve()
    return attempt(
        arguments.out,
        "bench",
        lambda work: _measured(arguments, Folders(work, base)),
        logs="logs",
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.serving", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--base", type=Path, default=_BASE, help="the base model's folder")
    parser.add_argument("--quick", action="store_true", help="a smoke test: no figure counts")
    parser.add_argument(
        "--only", nargs="+", choices=_MAIN, default=_MAIN, help="cells of the main run"
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--swaps", action="store_true", help="swaps under load instead")
    kind.add_argument("--long", action="store_true", help="the other cells, and 1,000 tenants")
    return parser.parse_args()


def _measured(arguments: argparse.Namespace, folders: Folders) -> dict[str, Any]:
    started, facts = time.monotonic(), machine.facts()
    base = load_base_model(str(folders.base), folders.work)
    publisher = Publisher(folders.store_url, base)
    if arguments.swaps:
        content = run_swaps(folders, publisher, quick=arguments.quick)
        return {**content, "machine": facts}
    sizes = _sizes(arguments)
    say(f"making {sizes.made} adapters")
    _make_adapters(folders, sizes)
    cells = Cells(folders, sizes, publisher)
    cells.publish_all()
    for phase in _phases(arguments, cells, sizes):
        phase()
    seconds = round(time.monotonic() - started)
    content = _content(cells.results, arguments.long)
    _draw(arguments.out, content, facts)
    return {
        **content,
        "seconds": seconds,
        "idle_cpu_share": cells.idle_cpu_share,
        "machine": facts,
    }


def _sizes(arguments: argparse.Namespace) -> Sizes:
    if arguments.long:
        return long.LONG_QUICK if arguments.quick else long.LONG
    return QUICK if arguments.quick else Sizes()


def _phases(
    arguments: argparse.Namespace, cells: Cells, sizes: Sizes
) -> Sequence[Callable[[], None]]:
    if arguments.long:
        return [lambda: long.grid(cells, sizes), lambda: long.thousand_tenants(cells, sizes)]
    every = {
        "pairs": cells.pairs,
        "cap_64": cells.cap_64,
        "oversubscribed": cells.oversubscribed,
        "flood": cells.flood,
        "cold": cells.cold,
    }
    return [every[name] for name in _MAIN if name in arguments.only]


def _make_adapters(folders: Folders, sizes: Sizes) -> None:
    arguments = ["--base", str(folders.base), "--out", str(folders.adapters)]
    process = Process(
        "the making of adapters",
        ["-m", "bench.serving.adapters", *arguments, "--count", str(sizes.made)],
        common_environment(),
        folders.log("adapters"),
    )
    try:
        process.wait(_MAKING_SECONDS)
    finally:
        process.stop()


def _content(results: Mapping[str, report.Pairs], is_long: bool) -> dict[str, Any]:
    named = {} if is_long else report.ratios(results)
    failures = report.failures(results)
    for name, value in named.items():
        say(f"{name:45} {'not measured' if value is None else format(value, '.3f')}")
    for line in failures:
        say(line)
    return {
        **named,
        "failures": failures,
        "medians": report.medians(results),
        "cells": results,
    }


def _draw(out: Path, content: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    caption = f"{facts['cores']} cores of {facts['cpu']}; demo base; python -m bench.serving"
    out.with_suffix(".svg").write_text(picture.draw(content["medians"], caption))


if __name__ == "__main__":
    sys.exit(main())
