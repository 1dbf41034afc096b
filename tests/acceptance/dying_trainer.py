"""python -m tests.acceptance.dying_trainer MOMENT: the real trainer, killed at an exact moment.

The process sends itself SIGKILL where it could have met another's: nothing is flushed, nothing is
closed, its workers find their sockets shut.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from tailorbird.registry import AdapterRegistry
from trainer_svc.__main__ import main
from trainer_svc.jobs.events import CheckpointSaved
from trainer_svc.jobs.store import JobStore
from trainer_svc.jobs.sweep import RungDecided

MOMENTS = ("checkpoint", "before-commit", "before-manifest", "before-route", "before-success")
SWEEP_MOMENTS = ("before-decision", "after-decision")


async def _die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_recording(event: type[Any], *, after: bool) -> None:
    record = JobStore.record

    async def record_and_die(self: JobStore, write: Any, *payloads: Any) -> None:
        if after or not isinstance(payloads[0], event):
            await record(self, write, *payloads)
        if isinstance(payloads[0], event):
            await _die()

    JobStore.record = record_and_die  # type: ignore[method-assign]


def _die_at(moment: str) -> None:
    if moment == "checkpoint":
        _die_recording(CheckpointSaved, after=True)
    elif moment in SWEEP_MOMENTS:
        _die_recording(RungDecided, after=moment == "after-decision")
    elif moment == "before-commit":
        JobStore.commit = _die  # type: ignore[method-assign, assignment]
    elif moment == "before-manifest":
        AdapterRegistry.publish = _die  # type: ignore[method-assign, assignment]
    elif moment == "before-route":
        AdapterRegistry.append_route = _die  # type: ignore[method-assign, assignment]
    elif moment == "before-success":
        JobStore.succeed = _die  # type: ignore[method-assign, assignment]
    else:
        raise ValueError(moment)


if __name__ == "__main__":
    _die_at(sys.argv[1])
    sys.exit(main())
