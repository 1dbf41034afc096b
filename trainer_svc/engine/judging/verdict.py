"""What an examination comes to, also where nothing could be examined."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from tailorbird.errors import (
    DataCorrupt,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    TailorbirdError,
)
from tailorbird.manifest import Decision
from trainer_svc.engine.judging.examination import Examiner
from trainer_svc.engine.judging.routed import Routed
from trainer_svc.jobs.events import EventPayload, JobWarning, Judged
from trainer_svc.judgement.model import Judgement

log = structlog.get_logger(__name__)

NOT_JUDGED = "NOT_JUDGED"


@dataclass(frozen=True)
class Verdict:
    """A judgement is there if records were answered; `event` is for the job's history."""

    judgement: Judgement | None
    decision: Decision
    event: EventPayload


async def verdict(examiner: Examiner) -> Verdict:
    """Examine, and decide. What cannot be examined is not promoted, and is no failure of the job.

    Raises what may be over soon: StoreUnavailable, Unavailable, Aborted, OSError.
    """
    if (unjudged := examiner.chosen.unjudged) is not None:
        return _without(unjudged.reason, unjudged.message)
    try:
        judgement, routed = await examiner.examine()
    except (FailedPrecondition, InvalidArgument, NotFound, DataCorrupt) as error:
        return _without(NOT_JUDGED, f"the version could not be judged: {_said(error)}")
    except (TailorbirdError, OSError):
        raise
    except Exception:
        # What is trained is not lost for a fault of the judge.
        log.exception("an examination failed", job=examiner.assignment.lease.job)
        return _without(NOT_JUDGED, "the version could not be judged: the trainer's log says why")
    judgement = _beside(judgement, routed)
    found = judgement.decision
    decision = Decision(
        promote=found.promote,
        reason=found.reason,
        message=found.message,
        route_generation=routed.generation,
    )
    told = Judged(judgement=judgement.model_copy(update={"samples": ()}))
    return Verdict(judgement, decision, told)


def _beside(judgement: Judgement, routed: Routed) -> Judgement:
    """Tell of a routed version that could not be asked: nothing takes its place unseen."""
    if not routed.refusal:
        return judgement
    note = f"the routed version was not asked: {routed.refusal}"
    decision = judgement.decision
    if decision.promote:
        refused = {"promote": False, "reason": routed.reason, "message": note}
        decision = decision.model_copy(update={**refused, "reasons": (routed.reason,)})
    return judgement.model_copy(update={"notes": (*judgement.notes, note), "decision": decision})


def _without(reason: str, message: str) -> Verdict:
    decision = Decision(promote=False, reason=reason, message=message)
    return Verdict(None, decision, JobWarning(reason=reason, message=message))


def _said(error: TailorbirdError) -> str:
    return f"{error.reason}: {error.message}"
