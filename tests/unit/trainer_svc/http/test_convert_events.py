"""What an event says to a person, and to a program that reads JSON."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime

import pytest

from tailorbird.names import JobName
from tests.unit.trainer_svc.fakes import PREPARED, step
from trainer_svc.http.convert_events import event_json
from trainer_svc.jobs.events import (
    CheckpointSaved,
    Evaluation,
    EventPayload,
    JobEvent,
    JobWarning,
    Judged,
    Published,
    Resumed,
    StateChanged,
    Unknown,
)
from trainer_svc.jobs.model import JobError, JobState
from trainer_svc.jobs.sweep import RungDecided, TrialReached
from trainer_svc.judgement.model import AnswerKind, Decision, Judgement, SliceGap

NAME = JobName("acme", "one")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
GAP = SliceGap(field="language", best="en", worst="de", gap=math.nan)
JUDGEMENT = Judgement(
    records=7, kind=AnswerKind.TEXT, primary_metric="rouge_l", primary_reason="they are texts",
    few_shot_examples=0, few_shot_reason="none", candidates=(), comparisons=(), gaps=(GAP,),
    decision=Decision(promote=True, reason="BETTER", message="it is"),
)  # fmt: skip
FAILED = StateChanged(
    state=JobState.FAILED, error=JobError(reason="NO_ROOM", message="it is too large")
)
PUBLISHED = Published(version="v", promoted=True, route_generation=3)


@pytest.mark.parametrize(
    ("payload", "level", "message"),
    [
        (StateChanged(state=JobState.RUNNING), "info", "The job is RUNNING."),
        (FAILED, "error", "The job is FAILED: NO_ROOM: it is too large"),
        (PREPARED, "info", "records are trained, in 4 steps."),
        (step(2), "info", "Step 2/4: training loss=1"),
        (
            Evaluation(step=2, validation_loss=0.123456, perplexity=1.1),
            "info",
            "Step 2: validation loss=0.1235",
        ),
        (Judged(judgement=JUDGEMENT), "info", "The version was judged on 7 held-out records."),
        (CheckpointSaved(step=2), "info", "A checkpoint is saved at step 2."),
        (Resumed(resumed_from_step=2, lease_epoch=2), "info", "The run goes on from step 2."),
        (PUBLISHED, "info", "v is published and gets the adapter's traffic."),
        (
            PUBLISHED.model_copy(update={"promoted": False}),
            "info",
            "v is published and gets no traffic yet.",
        ),
        (JobWarning(reason="FEW", message="two records"), "warn", "FEW: two records"),
        (
            TrialReached(trial=1, rung=0, step=2, total_steps=4, learning_rate=1e-3, epochs=2),
            "info",
            "A trial of the sweep has come to a rung.",
        ),
        (RungDecided(rung=0, going_on=(1,), stopped=(0,)), "info", "It is decided which trials"),
        (Unknown(kind="later"), "info", "A later release has recorded"),
    ],
)
def test_each_kind_says_what_happened(
    payload: EventPayload | Unknown, level: str, message: str
) -> None:
    told = event_json(NAME, JobEvent(sequence=5, time=NOW, payload=payload))
    assert (told["id"], told["level"]) == ("ftevent-one-5", level)
    assert message in told["message"]
    assert told["created_at"] == int(NOW.timestamp())
    figures = {"train_loss", "valid_loss"} & set(told["data"])
    assert told["type"] == ("metrics" if figures else "message")
    assert "kind" not in told["data"]
    json.dumps(told, allow_nan=False)


def test_what_json_has_no_number_for_is_null_however_deep() -> None:
    told = event_json(NAME, JobEvent(sequence=5, time=NOW, payload=Judged(judgement=JUDGEMENT)))
    (gap,) = told["data"]["judgement"]["gaps"]
    assert (gap["best"], gap["gap"]) == ("en", None)
