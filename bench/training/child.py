"""A contender in a process of its own: a line of JSON in, a line of JSON out.

The first line says who it is; every later one how many steps to take. Each answer has the memory it
holds and the most it held since the first answer.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from typing import Any, Protocol, TextIO

from bench.training import workload
from bench.training.contender import Contender, Kind
from bench.training.memory import forget_peak, peak_mib, resident_mib


class Steps(Protocol):
    """Takes steps of its jobs, and returns the tokens it read."""

    def run(self, steps: int) -> int:
        """Take `steps` steps of every job."""


def _make(told: Contender) -> Steps:
    work = workload.load(told.workload)
    if told.kind is Kind.ENGINE:
        return _engine(told, work)
    if told.kind is Kind.PEFT:
        from bench.training.peft_steps import PeftSteps

        return PeftSteps(told.base, work, told.lora, told.number_format)
    from bench.training.trl_steps import TrlSteps

    return TrlSteps(told.base, work, told.lora, told.number_format, told.out)


def _engine(told: Contender, work: workload.Workload) -> Steps:
    import torch

    from bench.training.engine_steps import EngineSteps
    from trainer_svc.engine.base import load_base
    from trainer_svc.engine.step.bank import AdapterBank
    from trainer_svc.engine.step.lanes import lanes_for

    # As a worker of the trainer does.
    base = load_base(str(told.base), "cpu")
    lanes = lanes_for(base, told.threads)
    torch.set_num_threads(max(1, told.threads // lanes))
    return EngineSteps(AdapterBank(base, lanes=lanes), work, told.lora)


def _serve(replies: TextIO) -> None:
    def reply(told: dict[str, Any]) -> None:
        print(json.dumps(told), file=replies, flush=True)

    told = Contender.from_json(sys.stdin.readline())
    _set_up(told.threads)
    steps = _make(told)
    forget_peak()
    reply({"rss_mib": resident_mib()})
    for line in sys.stdin:
        try:
            reply(_timed(steps, json.loads(line)["steps"]))
        except Exception as error:
            traceback.print_exc()
            reply({"error": f"{type(error).__name__}: {error}"})


def _timed(steps: Steps, count: int) -> dict[str, float]:
    began = time.perf_counter()
    tokens = steps.run(count)
    # A trainer that prepares its run anew each time says how long the steps alone took.
    seconds = getattr(steps, "seconds", time.perf_counter() - began)
    return {
        "seconds": seconds,
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "rss_mib": resident_mib(),
        "peak_mib": peak_mib(),
    }


def _set_up(threads: int) -> None:
    import torch
    from transformers.utils.logging import disable_progress_bar

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    disable_progress_bar()


def main() -> None:
    """Serve until the input ends."""
    # What libraries print must not land among the replies.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with replies:
        _serve(replies)


if __name__ == "__main__":
    main()
