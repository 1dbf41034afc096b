"""Texts that no store keeps are refused, and the field is named."""

from __future__ import annotations

import pytest

from tailorbird.adapters.v1.judgement_pb2 import Grader
from tailorbird.errors import InvalidArgument
from tailorbird.tuning.v1 import job_pb2
from trainer_svc.api.convert import spec_from_proto
from trainer_svc.api.servicer import check_ids

BAD = "nul \0"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"labels": {"a": BAD}}, "labels"),
        ({"labels": {BAD: "a"}}, "labels"),
        ({"base_model": BAD}, "base_model"),
        ({"evaluation": {"forbidden_phrases": ["fine", BAD]}}, "evaluation.forbidden_phrases[1]"),
        (
            {"evaluation": {"graders": [Grader(name="x", reference=BAD)]}},
            "evaluation.graders[0].reference",
        ),
    ],
)
def test_a_text_with_a_nul_in_it_is_refused(fields: dict[str, object], field: str) -> None:
    spec = job_pb2.JobSpec(
        training_dataset="tenants/acme/datasets/chats",
        adapter="tenants/acme/adapters/voice",
        **fields,  # type: ignore[arg-type]
    )
    with pytest.raises(InvalidArgument, match="NUL") as caught:
        spec_from_proto(spec)
    assert caught.value.field == f"job.spec.{field}"


def test_so_is_a_request_id() -> None:
    with pytest.raises(InvalidArgument, match="NUL") as caught:
        check_ids("job_id", "", BAD)
    assert caught.value.field == "request_id"


def test_a_spec_without_one_is_taken_whatever_else_it_has() -> None:
    spec = job_pb2.JobSpec(
        training_dataset="tenants/acme/datasets/chats",
        validation_fraction=0.1,
        adapter="tenants/acme/adapters/voice",
        labels={"ü": "\x01 \\u0000"},
        evaluation=job_pb2.EvaluationConfig(slice_fields=["shop"], max_records=20),
    )
    assert spec_from_proto(spec).labels == {"ü": "\x01 \\u0000"}
