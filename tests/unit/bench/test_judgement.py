from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from bench.judgement import chats, uploads, versions
from bench.judgement.beside import rate
from bench.judgement.faults import Checked, Fault, Found, figures, table
from bench.judgement.personal import sentence_with
from bench.judgement.report import judging_share, lines, unmet
from bench.judgement.trainer import Ran
from examples.demo.tenants import INVOICES, MAX_RETENTION_LOSS, SUPPORT
from tailorbird.personal_data.kinds import BY_MODEL, KINDS
from tailorbird.records.formats import parse_record
from tailorbird.tuning.v1 import job_pb2

LEAK = Fault("a leak", "VALIDATION_LEAKAGE", "line 3")
ALARM = Found("LABEL_IMBALANCE", "of 2")


def planted() -> list[Fault]:
    in_uploads = [fault for each in uploads.planted_uploads() for fault in each.faults]
    return [*in_uploads, *(f for job in versions.planted_jobs("routed") for f in job.faults)]


def test_a_fault_is_named_by_its_reason_and_its_place_alone() -> None:
    assert LEAK.is_named_by(Found("VALIDATION_LEAKAGE", "1 of 2 records: line 3 is 1"))
    assert not LEAK.is_named_by(Found("VALIDATION_LEAKAGE", "line 4 is 1"))
    assert not LEAK.is_named_by(Found("DUPLICATE_RECORDS", "line 3 is 1"))


def test_what_is_missed_and_what_is_a_false_alarm() -> None:
    other = Fault("another", "SHORT_ANSWERS")
    told = figures(
        [
            Checked("both", [LEAK, other], [Found("VALIDATION_LEAKAGE", "line 3"), ALARM]),
            Checked("found", [other], [Found("SHORT_ANSWERS", "line 1")]),
        ],
        [Checked("clean", (), [ALARM, ALARM]), Checked("quiet", (), ())],
    )

    assert (told["planted"], told["missed"], told["false_alarms"]) == (3, 1, 2)
    assert [row["found"] for row in told["faults"]] == [True, False, True]
    # What is said of planted data besides may follow from what was planted.
    assert told["said_beside"]["both"] == [{"reason": "LABEL_IMBALANCE", "message": "of 2"}]
    assert table(told)[2:4] == [
        "| a leak | `VALIDATION_LEAKAGE` | line 3 |",
        "| another | `NOT FOUND (SHORT_ANSWERS)` |  |",
    ]


def test_every_fault_is_found_as_something_of_its_own() -> None:
    counts = Counter((fault.reason, fault.says) for fault in planted())

    assert [twice for twice, count in counts.items() if count > 1] == []
    assert len({fault.what for fault in planted()}) == len(planted()) >= 20


def test_no_fault_is_named_by_what_names_another_of_its_case() -> None:
    cases = [each.faults for each in uploads.planted_uploads()]
    cases += [job.faults for job in versions.planted_jobs("routed")]
    for faults in cases:
        for fault in faults:
            said = Found(fault.reason, fault.says)
            assert [one for one in faults if one.is_named_by(said)] == [fault]


def test_each_kind_of_personal_data_is_planted() -> None:
    (personal,) = (each for each in uploads.planted_uploads() if each.name == "personal")
    kinds = sorted(KINDS - BY_MODEL)

    assert [fault.reason for fault in personal.faults] == [
        f"personal_data.{kind}" for kind in kinds
    ]
    for kind, line in zip(kinds, personal.lines, strict=True):
        assert sentence_with(kind) in json.loads(line)["messages"][-2]["content"]


def test_held_out_chats_are_no_training_chats() -> None:
    for tenant in (SUPPORT, INVOICES):
        training, held = chats.training(tenant), chats.held_out(tenant, 40)
        asked = {json.dumps(each["messages"][:-1]) for each in training}

        assert held == chats.held_out(tenant, 40)
        assert not asked & {json.dumps(each["messages"][:-1]) for each in held}
        assert {each["metadata"]["topic"] for each in held} <= {
            each["metadata"]["topic"] for each in training
        }


@pytest.mark.parametrize("job", versions.planted_jobs("routed"), ids=lambda job: job.name)
def test_what_is_planted_for_training_can_be_uploaded(job: versions.PlantedJob) -> None:
    records = [*job.training, *(job.held or ())]
    for line, record in enumerate(chats.lines(records), start=1):
        assert parse_record(line, record.encode())[1] == records[line - 1]


def test_a_spec_asks_for_what_the_demo_allows() -> None:
    spec = versions.demo_spec(SUPPORT, "training", "held", "a")

    assert spec.evaluation.max_retention_loss == MAX_RETENTION_LOSS
    assert (spec.validation_dataset, spec.promotion_policy) == (
        "held",
        job_pb2.PROMOTION_POLICY_AUTO_IF_BETTER,
    )
    assert versions.demo_spec(SUPPORT, "training", "", "a").WhichOneof("validation") is None


def test_steps_between_two_points_are_even() -> None:
    even = [(0.0, 0), (10.0, 20), (20.0, 20)]

    assert rate([even], 0.0, 10.0) == pytest.approx(2.0)
    assert rate([even, even], 5.0, 15.0) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="nothing is known"):
        rate([even], 5.0, 21.0)


def test_the_share_is_the_median_of_the_job_that_is_dearest() -> None:
    costs = [{"job": "a", "share": share} for share in (0.1, 0.9, 0.2)]

    assert judging_share([*costs, {"job": "b", "share": 0.15}]) == pytest.approx(0.2)
    assert judging_share([]) is None


def test_a_figure_at_its_bound_is_kept_and_one_beyond_is_told() -> None:
    kept: dict[str, Any] = {
        "planted": 20,
        "missed": 0,
        "false_alarms": 0,
        "judging_share": 0.3,
        "throughput_while_judging": 0.7,
        "sweep_ratio": 0.5,
    }
    assert unmet(kept) == []
    beyond = {**dict.fromkeys(kept, 1), "throughput_while_judging": 0.69}
    assert [line.split()[0] for line in unmet(beyond)] == [
        "planted",
        "throughput_while_judging",
        "missed",
        "false_alarms",
        "judging_share",
        "sweep_ratio",
    ]
    assert unmet({}) == []
    assert "sweep_ratio                not measured" in lines({})


def test_all_that_a_job_was_told_is_heard() -> None:
    events = [job_pb2.JobEvent() for _ in range(4)]
    events[0].prepared.training.dropped_lines.append(7)
    events[1].warning.reason = "OVERFITTING"
    events[2].judged.decision.reasons.append("UNSAFE")
    events[2].judged.decision.message = "violence"
    events[2].judged.safety.add(category="violence", where="tuned", count=1, lines=[4])
    events[3].state_changed.state = job_pb2.JOB_STATE_SUCCEEDED
    ran = Ran("job", events, [Found("LABEL_IMBALANCE", "of 2")])

    assert [found.reason for found in ran.found()] == [
        "LABEL_IMBALANCE",
        "dropped_too_long",
        "OVERFITTING",
        "UNSAFE",
        "SAFETY_FINDING",
    ]
    assert not ran.promoted
