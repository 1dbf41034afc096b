"""Every bound of an evaluation spec, and what the data do not allow."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tailorbird.errors import InvalidArgument
from trainer_svc.judgement.check import check_answers, check_spec
from trainer_svc.judgement.model import EvaluationSpec, Grader

EQ = Grader(kind="string_check", name="same", operation="eq")


def graders(count: int) -> tuple[Grader, ...]:
    return tuple(EQ.model_copy(update={"name": f"g{i}"}) for i in range(count))


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"required_phrases": tuple(str(i) for i in range(64)), "primary_metric": "phrases"},
        {"forbidden_phrases": ("x" * 200,)},
        {"graders": graders(8), "primary_metric": "grader:g0"},
        {"slice_fields": tuple("abcde")},
        {"counterfactuals": (("default",), ("a", "b"), tuple(str(i) for i in range(32)))},
        {"counterfactuals": tuple((f"a{i}", "b") for i in range(16))},
        {"few_shot_examples": 0, "max_records": 10, "max_slice_drop": 0, "max_forgotten": 0},
        {"few_shot_examples": 8, "max_records": 1000, "max_slice_drop": 1, "max_forgotten": 1},
        {"max_counterfactual_changes": 0, "counterfactuals": (("default",),)},
        {"max_counterfactual_changes": 1, "counterfactuals": (("a", "b"),)},
        {"max_retention_loss": 0},
        {"max_retention_loss": 100},
        {"json_schema": "{}"},
    ],
)
def test_the_bounds_themselves_are_allowed(spec: dict[str, Any]) -> None:
    check_spec(EvaluationSpec(**spec))


@pytest.mark.parametrize(
    ("spec", "field", "message"),
    [
        ({"required_phrases": ("a",) * 65}, "required_phrases", "65 entries; at most 64"),
        ({"forbidden_phrases": ("a" * 201,)}, "forbidden_phrases[0]", "at most 200"),
        ({"forbidden_phrases": ("a", " ")}, "forbidden_phrases[1]", "empty"),
        ({"slice_fields": tuple("abcdef")}, "slice_fields", "6 entries; at most 5"),
        ({"slice_fields": ("a" * 65,)}, "slice_fields[0]", "at most 64"),
        ({"slice_fields": ("a", "a")}, "slice_fields[1]", "'a' is there already"),
        ({"graders": graders(9)}, "graders", "9 graders; at most 8"),
        ({"graders": (EQ, EQ)}, "graders[1].name", "'same' is there already"),
        (
            {"graders": (Grader(kind="python", name="a"),)},
            "graders[0].type",
            "'python' is neither string_check nor text_similarity",
        ),
        ({"primary_metric": "bleurt"}, "primary_metric", "'bleurt' is none of"),
        ({"primary_metric": "phrases"}, "primary_metric", "needs required_phrases"),
        (
            {"graders": (EQ.model_copy(update={"operation": "is"}),)},
            "graders[0].string_check",
            "'is' is none of eq, ne, like, ilike",
        ),
        (
            {"graders": (Grader(kind="text_similarity", name="a", evaluation_metric="b"),)},
            "graders[0].text_similarity",
            "'b' is none of fuzzy_match, bleu",
        ),
        ({"graders": (EQ.model_copy(update={"name": ""}),)}, "graders[0].name", "is not 1 to 64"),
        (
            {"required_phrases": ("Fly well",), "forbidden_phrases": ("a", "fly well")},
            "forbidden_phrases[1]",
            "'fly well' is a required phrase as well",
        ),
        (
            {"max_counterfactual_changes": 0.1},
            "max_counterfactual_changes",
            "needs sets of words in counterfactuals",
        ),
        ({"json_schema": '{"type": 3}'}, "json_schema", "not a JSON schema"),
        ({"counterfactuals": (("a", "b"),) * 17}, "counterfactuals", "17 sets"),
        ({"counterfactuals": (("a", "b"), ("c",))}, "counterfactuals[1]", "two words or more"),
        ({"counterfactuals": ((),)}, "counterfactuals[0]", "two words or more"),
        ({"counterfactuals": (("a", ""),)}, "counterfactuals[0][1]", "empty"),
        ({"counterfactuals": (("a", "a"),)}, "counterfactuals[0][1]", "there already"),
        ({"counterfactuals": (("a", "b" * 65),)}, "counterfactuals[0][1]", "at most 64"),
        (
            {"counterfactuals": (tuple(str(i) for i in range(33)),)},
            "counterfactuals[0]",
            "33 entries; at most 32",
        ),
        ({"few_shot_examples": 9}, "few_shot_examples", "9 is not at least 0 and at most 8"),
        ({"few_shot_examples": -1}, "few_shot_examples", "-1 is not at least 0"),
        ({"max_records": 9}, "max_records", "9 is not at least 10 and at most 1000"),
        ({"max_records": 1001}, "max_records", "1001 is not at least 10"),
        ({"max_slice_drop": 1.1}, "max_slice_drop", "1.1 is not at least 0 and at most 1"),
        ({"max_slice_drop": math.nan}, "max_slice_drop", "nan is not"),
        ({"max_retention_loss": -0.1}, "max_retention_loss", "-0.1 is not at least 0"),
        ({"max_retention_loss": math.inf}, "max_retention_loss", "inf is not"),
        ({"max_forgotten": 2}, "max_forgotten", "2 is not at least 0 and at most 1"),
        (
            {"max_counterfactual_changes": 1.5, "counterfactuals": (("a", "b"),)},
            "max_counterfactual_changes",
            "1.5 is not at least 0 and at most 1",
        ),
    ],
)
def test_what_is_too_much_is_named(spec: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_spec(EvaluationSpec(**spec))
    assert refused.value.field == f"job.spec.evaluation.{field}"
    assert message in refused.value.message
    assert len(refused.value.message) < 2000


def test_a_metric_that_the_answers_do_not_have() -> None:
    spec = EvaluationSpec(primary_metric="label_accuracy")
    check_answers(spec, ["?"] * 6, ["yes", "no"] * 3)
    check_answers(spec, ["?"], ["yes"], ["yes"] * 3)
    with pytest.raises(InvalidArgument, match="form no few classes"):
        check_answers(spec, ["?"] * 6, [f"text {i}" for i in range(6)])


def test_a_schema_that_no_answer_meets() -> None:
    spec = EvaluationSpec(json_schema='{"required": ["b"]}')
    check_answers(spec, ["?"] * 2, ['{"a": 1}', '{"b": 1}'])
    check_answers(spec, [], [], ['{"a": 1}'])
    with pytest.raises(InvalidArgument, match="none of the 2 expected answers meets it") as refused:
        check_answers(spec, ["?"] * 2, ['{"a": 1}', "{}"])
    with pytest.raises(InvalidArgument, match="none of the 2 expected answers meets it"):
        check_answers(spec, ["?"] * 2, ["some", "words"])
    assert refused.value.field == "job.spec.evaluation.json_schema"
    assert refused.value.reason == "SCHEMA_MET_BY_NONE"
