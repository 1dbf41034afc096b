"""How a version is judged goes to the domain and back, and a wrong one is named."""

from __future__ import annotations

import pytest

from tailorbird.adapters.v1.judgement_pb2 import Grader as GraderMessage
from tailorbird.errors import InvalidArgument
from tailorbird.tuning.v1 import job_pb2
from trainer_svc.api.convert import spec_from_proto
from trainer_svc.api.convert_evaluation import evaluation_from_proto, evaluation_to_proto
from trainer_svc.jobs.model import PromotionPolicy
from trainer_svc.judgement.model import EvaluationSpec, Grader


def test_nothing_said_is_every_default() -> None:
    assert evaluation_from_proto(job_pb2.EvaluationConfig()) == EvaluationSpec()


def test_everything_said_comes_back() -> None:
    spec = EvaluationSpec(
        primary_metric="grader:voice",
        required_phrases=("Bright day",),
        forbidden_phrases=("sorry",),
        graders=(
            Grader(kind="string_check", name="voice", operation="ilike", reference="Bright"),
            Grader(kind="text_similarity", name="near", evaluation_metric="bleu"),
        ),
        json_schema="{}",
        slice_fields=("shop",),
        counterfactuals=(("he", "she"), ("north", "south")),
        few_shot_examples=0,
        max_records=50,
        max_slice_drop=0.0,
        max_retention_loss=1.5,
        max_forgotten=0.0,
        max_counterfactual_changes=0.25,
    )
    assert evaluation_from_proto(evaluation_to_proto(spec)) == spec


def job(**changes: object) -> job_pb2.JobSpec:
    return job_pb2.JobSpec(
        training_dataset="tenants/acme/datasets/chats",
        adapter="tenants/acme/adapters/voice",
        **changes,  # type: ignore[arg-type]
    )


def test_a_job_that_names_no_policy_is_promoted_if_it_is_better() -> None:
    assert spec_from_proto(job()).promotion_policy is PromotionPolicy.AUTO_IF_BETTER


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"max_records": 9}, "max_records"),
        ({"max_records": 1001}, "max_records"),
        ({"max_slice_drop": 1.5}, "max_slice_drop"),
        ({"few_shot_examples": 9}, "few_shot_examples"),
        ({"primary_metric": "beauty"}, "primary_metric"),
        ({"json_schema": "{"}, "json_schema"),
        ({"graders": [GraderMessage(name="x")]}, "graders[0]"),
        ({"graders": [GraderMessage(name="x", text_similarity="cosine")]}, "graders[0]"),
    ],
)
def test_a_wrong_one_is_named(config: dict[str, object], field: str) -> None:
    evaluation = job_pb2.EvaluationConfig(**config)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument) as caught:
        spec_from_proto(job(evaluation=evaluation))
    assert caught.value.field.startswith(f"job.spec.evaluation.{field}")


def test_what_is_not_judged_cannot_be_promoted_for_being_better() -> None:
    none = job_pb2.EvaluationConfig(max_records=0)
    with pytest.raises(InvalidArgument, match="AUTO_IF_BETTER"):
        spec_from_proto(job(evaluation=none))
    always = job_pb2.PROMOTION_POLICY_ALWAYS
    spec = spec_from_proto(job(evaluation=none, promotion_policy=always))
    assert spec.evaluation.max_records == 0
