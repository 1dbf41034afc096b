"""`tailorbird feedback` against a real socket: what it asks and prints."""

from __future__ import annotations

import json

from tailorbird.serving.v1 import inference_service_pb2 as serving_pb
from tailorbird.tuning.v1 import dataset_pb2, feedback_pb2
from tests.integration.scripted_services import ADAPTER, FEEDBACK, VERSIONS, Script
from tests.integration.test_cli import Run, run

__all__ = ["run"]


def test_feedback_is_recorded(run: Run, script: Script) -> None:
    ran = run(
        "feedback", "record", VERSIONS[0], "Where?", "Lost.", "--correction", "Here.",
        "--rating", "bad", "--system", "Be kind.", "--label", "channel=a=b",
        "--generation", "4", "--request-id", "one",
    )  # fmt: skip
    assert (ran.status, "email 2" in ran.out) == (0, True)
    (asked,) = script.requests
    assert asked == serving_pb.RecordFeedbackRequest(
        version=VERSIONS[0],
        route_generation=4,
        chat=serving_pb.Chat(
            messages=[
                serving_pb.Message(role=serving_pb.ROLE_SYSTEM, content="Be kind."),
                serving_pb.Message(role=serving_pb.ROLE_USER, content="Where?"),
            ]
        ),
        answer=serving_pb.FeedbackAnswer(text="Lost."),
        correction=serving_pb.FeedbackAnswer(text="Here."),
        rating=serving_pb.RATING_BAD,
        labels={"channel": "a=b"},
        request_id="one",
    )
    assert script.metadata[0]["x-tailorbird-adapter"] == ADAPTER
    version = VERSIONS[0].rpartition("/")[2]
    shown = run(
        "feedback", "record", version, "Where?", "Here.", "--adapter", "support", "-o", "json"
    )
    assert json.loads(shown.out)["name"] == FEEDBACK
    assert script.requests[1].version == VERSIONS[0]
    assert not script.requests[1].HasField("correction")
    assert len(script.requests[1].request_id) == 32
    wrong = run("feedback", "record", VERSIONS[0], "a", "b", "--label", "channel")
    assert (wrong.status, "'channel' is not key=value" in wrong.err) == (2, True)
    twice = run("feedback", "record", VERSIONS[0], "a", "b", "--label", "a=1", "--label", "a=2")
    assert (twice.status, "--label: 'a' is given twice" in twice.err) == (2, True)


def test_feedback_is_listed(run: Run, script: Script) -> None:
    ran = run(
        "feedback", "list", "--adapter", "support", "--since", "2026-11-01",
        "--until", "2026-11-02T03:00:00", "--rating", "good", "--corrected",
    )  # fmt: skip
    heads, *rows = ran.out.splitlines()
    assert heads.split() == "FEEDBACK RECORDED VERSION RATING ASKED ANSWER CORRECTION".split()
    assert len(rows) == 2
    assert r"Where is my \x1b[2J order?" in rows[0]
    assert "…" in rows[0]
    assert 'find({"order": 1})' in rows[0]
    assert " bad " in rows[0]
    assert f"cannot be read: {FEEDBACK[:-1]}1" in ran.err
    asked = script.requests[0]
    assert (asked.parent, asked.rating, asked.has_correction) == (
        ADAPTER,
        serving_pb.RATING_GOOD,
        True,
    )
    assert asked.since.ToJsonString() == "2026-11-01T00:00:00Z"
    assert asked.until.ToJsonString() == "2026-11-02T03:00:00Z"
    script.requests.clear()
    one = run("feedback", "list", "--adapter", ADAPTER, "--limit", "1", "-o", "json")
    assert [each["name"] for each in json.loads(one.out)] == [FEEDBACK]
    assert len(script.requests) == 1
    assert not script.requests[0].HasField("has_correction")
    assert not script.requests[0].HasField("since")


def test_feedback_is_imported_and_deleted(run: Run, script: Script) -> None:
    ran = run(
        "feedback", "import", "--adapter", "support", "--id", "made", "--rule", "corrections",
        "--format", "prompt_completion",
    )  # fmt: skip
    said = dict(line.split("  ", 1) for line in ran.out.splitlines())
    assert {key: value.strip() for key, value in said.items()} == {
        "dataset": "tenants/acme/datasets/made",
        "read": "3",
        "imported": "1",
        "not asked for": "1",
        "unusable": "1",
    }
    assert f"{FEEDBACK}: messages[0]: empty" in ran.err
    assert "warning: SHORT_ANSWERS: 1 of 1" in ran.err
    assert script.requests[0] == feedback_pb2.ImportFeedbackRequest(
        parent="tenants/acme",
        dataset_id="made",
        adapter=ADAPTER,
        rule=feedback_pb2.FEEDBACK_RULE_CORRECTIONS,
        format=dataset_pb2.DATASET_FORMAT_PROMPT_COMPLETION,
    )
    shown = run("feedback", "import", "--adapter", ADAPTER, "--id", "made", "-o", "json")
    assert json.loads(shown.out)["imported_count"] == "1"
    assert "is deleted" in run("feedback", "delete", FEEDBACK).out
    assert script.requests[2] == feedback_pb2.DeleteFeedbackRequest(name=FEEDBACK)
