"""What the answers are, which metric decides, and which cannot."""

from __future__ import annotations

import pytest

from tailorbird.errors import InvalidArgument
from trainer_svc.judgement.kinds import kind_of, primary_metric
from trainer_svc.judgement.model import AnswerKind, EvaluationSpec, Grader

LONG = "word " * 100


def kind(expected: list[str], training: list[str] | None = None, prompt: str = "?") -> AnswerKind:
    return kind_of([prompt] * len(expected), expected, training or [])


@pytest.mark.parametrize(
    ("expected", "prompt", "found"),
    [
        (["yes", "no"] * 3, "?", AnswerKind.LABELS),
        (["yes", "no "] * 2 + [" yes", "no"], "?", AnswerKind.LABELS),
        (["yes", "no", "maybe"] * 2, "?", AnswerKind.TEXT),
        ([f"label {i}" for i in range(50)] * 3, "?", AnswerKind.LABELS),
        ([f"label {i}" for i in range(51)] * 3, "?", AnswerKind.TEXT),
        (["x" * 64] * 3, "?", AnswerKind.LABELS),
        (["x" * 65] * 3, "?", AnswerKind.TEXT),
        ([" " * 200 + "x"] * 3, "?", AnswerKind.TEXT),
        (["a\nb"] * 3, "?", AnswerKind.TEXT),
        (['{"a": 1}'] * 9 + ["none"], "?", AnswerKind.JSON),
        (['{"a": 1}'] * 8 + ["none", "not"], "?", AnswerKind.LABELS),
        (["[1]", "[2]", "[3]"], "?", AnswerKind.JSON),
        (["1", "2", "3"], "?", AnswerKind.TEXT),
        ([f"w{i} " * 20 for i in range(10)], LONG, AnswerKind.SUMMARY),
        ([f"w{i} " * 19 for i in range(10)], LONG, AnswerKind.TEXT),
        ([f"w{i} " * 34 for i in range(10)], LONG, AnswerKind.TEXT),
        ([f"w{i} " * 20 for i in range(8)] + ["a", "b"], LONG, AnswerKind.SUMMARY),
        ([f"w{i} " * 20 for i in range(7)] + ["a", "b", "c"], LONG, AnswerKind.TEXT),
        ([], "?", AnswerKind.TEXT),
    ],
)
def test_kinds(expected: list[str], prompt: str, found: AnswerKind) -> None:
    assert kind(expected, prompt=prompt) is found


def test_the_training_answers_tell_of_the_classes() -> None:
    assert kind(["yes", "no"]) is AnswerKind.TEXT
    assert kind(["yes", "no"], ["yes", "no"] * 3) is AnswerKind.LABELS
    assert kind([], ["yes", "no"] * 3) is AnswerKind.LABELS
    assert kind(["yes", "no"] * 3, [f"text {i}" for i in range(9)]) is AnswerKind.TEXT


@pytest.mark.parametrize(
    ("found", "metric"),
    [
        (AnswerKind.LABELS, "label_accuracy"),
        (AnswerKind.JSON, "field_accuracy"),
        (AnswerKind.SUMMARY, "rouge_l"),
        (AnswerKind.TEXT, "token_f1"),
    ],
)
def test_the_kind_chooses_the_metric_and_says_why(found: AnswerKind, metric: str) -> None:
    name, why = primary_metric(EvaluationSpec(), found)
    assert name == metric
    assert why.startswith(f"{metric}, because the expected answers ")


@pytest.mark.parametrize(
    "metric", ["exact_match", "rouge_l", "macro_f1", "phrases", "grader:my own"]
)
def test_a_named_metric_decides(metric: str) -> None:
    spec = EvaluationSpec(
        primary_metric=metric,
        required_phrases=("hi",),
        graders=(Grader(kind="string_check", name="my own", operation="eq"),),
    )
    assert primary_metric(spec, AnswerKind.LABELS) == (metric, f"{metric}, named in the spec")


@pytest.mark.parametrize(
    ("metric", "found", "message"),
    [
        ("label_accuracy", AnswerKind.TEXT, "form no few classes; token_f1 would be chosen"),
        ("macro_f1", AnswerKind.JSON, "form no few classes; field_accuracy would be chosen"),
        ("field_accuracy", AnswerKind.LABELS, "are not JSON; label_accuracy would be chosen"),
        ("json_validity", AnswerKind.SUMMARY, "are not JSON; rouge_l would be chosen"),
        ("phrases", AnswerKind.TEXT, "needs required_phrases or forbidden_phrases"),
        ("bertscore", AnswerKind.TEXT, "'bertscore' is none of exact_match"),
        ("grader:other", AnswerKind.TEXT, "'grader:other' is none of"),
    ],
)
def test_a_metric_that_cannot_be_had_is_refused(
    metric: str, found: AnswerKind, message: str
) -> None:
    with pytest.raises(InvalidArgument, match=message) as refused:
        primary_metric(EvaluationSpec(primary_metric=metric), found)
    assert refused.value.field == "job.spec.evaluation.primary_metric"
