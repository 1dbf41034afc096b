"""The main job, with nothing faked: the trainer, vLLM, gRPC sockets, and the demo's own checks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from rich.console import Console

from examples.demo.memory import PeakMemory
from examples.demo.report import Report
from examples.demo.stage import Stage
from examples.demo.story import tell
from examples.demo.tenants import EXAMPLES


@pytest.mark.timeout(900)
def test_two_datasets_become_two_served_adapters_and_one_is_swapped(tmp_path: Path) -> None:
    report = Report(Console(file=sys.stdout, width=160, highlight=False))
    with PeakMemory() as memory, Stage(tmp_path, str(EXAMPLES / "demo_base")) as stage:
        tell(stage, report)
    assert [check for check in report.checks if not check.holds] == []
    assert stage.stopped_well, stage.exit_statuses
    assert 0 < memory.peak <= 8 * 2**30
    claims = {check.claim for check in report.checks}
    assert {
        "wrenfield tuned at least 0.75",
        "wrenfield base below 0.1",
        "oakwright tuned at least 0.75",
        "oakwright base below 0.1",
        "oakwright's adapter is refused to wrenfield",
        "wrenfield's adapter is refused to oakwright",
        "no request failed",
        "every request begun after Promote is v2's",
    } <= claims
