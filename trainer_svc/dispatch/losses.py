"""What goes wrong with a job that may go on all the same: how often it may, and when it goes on."""

from __future__ import annotations

from trainer_svc.jobs.events import JobWarning
from trainer_svc.jobs.model import Faults, JobError

_MAX_MESSAGE = 1000
_SECONDS = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0)


def pause_of(faults: Faults) -> float:
    """Return for how many seconds nobody takes the job up.

    What it needs may be down, or memory be short: it waits longer the more often it was tried.
    """
    return pause_after(max(1, faults.attempts, faults.data_losses))


def waits(error: JobError, seconds: float) -> JobWarning:
    """Return what the job's history says of a wait: for want of what, and for how long."""
    return JobWarning(
        reason="JOB_WAITS",
        message=f"tried again in {seconds:g} s: {error.reason}: {error.message}"[:_MAX_MESSAGE],
    )


def pause_after(tries: int) -> float:
    """Return for how many seconds to wait after so many tries, at least one."""
    return _SECONDS[min(tries, len(_SECONDS)) - 1]


def after_attempt(faults: Faults) -> Faults:
    """Note a lease that ended for want of something."""
    return faults.model_copy(update={"attempts": faults.attempts + 1})


def after_worker_loss(faults: Faults, *, at_work: bool) -> Faults:
    """Note a worker that died under the job.

    It counts if the job was `at_work`: trained or judged. In another phase it may have been
    anybody's doing, and makes the job a suspect; a suspect is alone, so whatever it dies of next
    was its own.
    """
    counts = at_work or faults.alone
    losses = faults.worker_losses + int(counts)
    return faults.model_copy(update={"worker_losses": losses, "alone": True})


def after_data_loss(faults: Faults) -> Faults:
    """Note that the process of the job's data died.

    No worker was harmed: it makes no suspect, and does not count as a worker's death.
    """
    return faults.model_copy(update={"data_losses": faults.data_losses + 1})


def suspected(faults: Faults) -> Faults:
    """Let the job be alone from now on: then it is seen whether a failure is its own doing."""
    return faults.model_copy(update={"alone": True})
