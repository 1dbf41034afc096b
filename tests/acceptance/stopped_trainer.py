"""python -m tests.acceptance.stopped_trainer MOMENT [STOP]: the real trainer, stopped at a moment.

The process sends itself the SIGTERM that a preempted pod gets, once, where the named moment begins,
and goes on; or SIGSTOP, if that is asked for, and stands still until somebody lets it go on.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from tailorbird.registry import AdapterRegistry
from trainer_svc.__main__ import main
from trainer_svc.jobs.events import StateChanged, StepProgress
from trainer_svc.jobs.model import JobState
from trainer_svc.jobs.store import JobStore

STEP = 3
"""The moment "running" is the first progress after so many steps."""

_told = False


def _stop() -> None:
    global _told
    if not _told:
        _told = True
        os.kill(os.getpid(), signal.SIGSTOP if "STOP" in sys.argv else signal.SIGTERM)


def _stop_before(owner: Any, method: str) -> None:
    original = getattr(owner, method)

    async def stop_and_go_on(*arguments: Any, **named: Any) -> Any:
        _stop()
        return await original(*arguments, **named)

    setattr(owner, method, stop_and_go_on)


def _stop_at_event(wanted: Any) -> None:
    record = JobStore.record

    async def record_and_stop(self: JobStore, write: Any, *payloads: Any) -> None:
        await record(self, write, *payloads)
        if any(map(wanted, payloads)):
            _stop()

    JobStore.record = record_and_stop  # type: ignore[method-assign]


def _stop_at_claim() -> None:
    claim = JobStore.claim

    async def claim_and_stop(self: JobStore, *args: Any, **kwargs: Any) -> Any:
        claimed = await claim(self, *args, **kwargs)
        if claimed is not None:
            _stop()
        return claimed

    JobStore.claim = claim_and_stop  # type: ignore[method-assign]


def _stop_at(moment: str) -> None:
    if moment == "preparing":
        _stop_at_claim()
    elif moment == "running":
        _stop_at_event(lambda event: isinstance(event, StepProgress) and event.step >= STEP)
    elif moment == "evaluating":
        _stop_at_event(lambda event: event == StateChanged(state=JobState.EVALUATING))
    elif moment == "upload":
        _stop_before(JobStore, "allocate_version")
    elif moment == "commit":
        _stop_before(JobStore, "commit")
    elif moment == "manifest":
        _stop_before(AdapterRegistry, "publish")
    elif moment == "success":
        _stop_before(JobStore, "succeed")
    else:
        raise ValueError(moment)


if __name__ == "__main__":
    _stop_at(sys.argv[1])
    sys.exit(main())
