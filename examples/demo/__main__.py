"""`make demo`: two customers' datasets become two adapters on one base model, hot-swapped live.

Everything is real: the trainer and serving run as processes of their own, vLLM answers, and all of
it is spoken over gRPC. Exits 1 if a check fails.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path

from examples.demo.memory import PeakMemory
from examples.demo.report import Report
from examples.demo.stage import Stage
from examples.demo.story import tell
from examples.demo.tenants import EXAMPLES
from tailorbird.cli.output import describe, out, size
from tailorbird.errors import TailorbirdError

_MEMORY_LIMIT = 8 * 2**30


def main() -> int:
    """Run the demo and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument(
        "--base-model",
        default=str(EXAMPLES / "demo_base"),
        help="a folder or a Hugging Face id (default: the small base of this repository)",
    )
    base_model = parser.parse_args().base_model

    scratch = EXAMPLES.parent / ".demo"
    scratch.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=scratch))
    report = Report(out)
    good = False
    try:
        with PeakMemory() as memory:
            with Stage(folder, base_model) as stage:
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, partial(_stop, stage))
                tell(stage, report)
            report.check(
                "both services stop in order on SIGTERM", stage.stopped_well, stage.exit_statuses
            )
        report.check("memory at most 8 GiB", memory.peak <= _MEMORY_LIMIT, size(memory.peak))
        good = report.conclude()
    except TailorbirdError as error:
        report.console.print(describe(error), style="red", markup=False, soft_wrap=True)
    report.console.print()
    report.say(f"{'Done' if good else 'FAILED'} in {report.seconds:.0f} s.", "bold")
    if good:
        shutil.rmtree(folder)
    else:
        report.say(f"logs and data are kept in {folder}")
    return 0 if good else 1


def _stop(stage: Stage, number: int, _frame: object) -> None:
    stage.interrupt()
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
