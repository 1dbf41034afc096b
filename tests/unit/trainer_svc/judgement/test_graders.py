"""The graders as OpenAI has them: what each says, templates, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailorbird.errors import InvalidArgument
from trainer_svc.judgement.graders import check_grader, grade, lacking
from trainer_svc.judgement.model import Grader

SIMILARITIES = ("fuzzy_match", "bleu", *(f"rouge_{n}" for n in range(1, 6)), "rouge_l")


def check(operation: str, **changes: str) -> Grader:
    return Grader(kind="string_check", name="check", operation=operation, **changes)


def similarity(metric: str) -> Grader:
    return Grader(kind="text_similarity", name="like it", evaluation_metric=metric)


@pytest.mark.parametrize(
    ("operation", "answer", "expected", "value"),
    [
        ("eq", "Paris", "Paris", 1),
        ("eq", "paris", "Paris", 0),
        ("ne", "paris", "Paris", 1),
        ("ne", "Paris", "Paris", 0),
        ("like", "It is Paris.", "Paris", 1),
        ("like", "It is paris.", "Paris", 0),
        ("like", "Par", "Paris", 0),
        ("ilike", "It is PARIS.", "paris", 1),
        ("ilike", "STRASSE", "straße", 1),
        ("ilike", "Rome", "paris", 0),
    ],
)
def test_string_check(operation: str, answer: str, expected: str, value: float) -> None:
    assert grade(check(operation), output_text=answer, expected=expected) == value


@pytest.mark.parametrize(
    ("metric", "answer", "expected", "value"),
    [
        # Two of six characters stay: 2 * 2 / 6.
        ("fuzzy_match", "abc", "axb", 2 / 3),
        ("rouge_1", "the cat sat", "the cat ran", 2 / 3),
        ("rouge_2", "the cat sat", "the cat ran", 1 / 2),
        ("rouge_3", "the cat sat", "the cat ran", 0),
        ("rouge_l", "cat the", "the cat sat", 0.4),
        # 3/4, 2/3, 1/2 and a smoothed 1/2 of a 4-gram: their geometric mean.
        ("bleu", "the cat sat down", "the cat sat up", (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25),
        ("bleu", "", "", 1),
        ("bleu", "", "a", 0),
    ],
)
def test_text_similarity(metric: str, answer: str, expected: str, value: float) -> None:
    found = grade(similarity(metric), output_text=answer, expected=expected)
    assert found == pytest.approx(value)


@settings(deadline=None)
@given(st.text(max_size=40), st.text(max_size=40))
def test_similarities_are_between_0_and_1_and_equal_texts_are_1(first: str, second: str) -> None:
    for metric in SIMILARITIES:
        assert 0 <= grade(similarity(metric), output_text=first, expected=second) <= 1
        assert grade(similarity(metric), output_text=first, expected=first) == pytest.approx(1)


def test_templates_are_filled_once() -> None:
    grader = check(
        "eq",
        input="{{ item.prompt }}|{{item.metadata.n}}|{{item.metadata.list}}",
        reference="{{sample.output_text}}",
    )
    said = grade(
        grader,
        output_text='{{item.expected}}|3|["é"]',
        prompt="{{item.expected}}",
        expected="secret",
        metadata={"n": 3, "list": ["é"]},
    )
    assert said == 1


@pytest.mark.parametrize("metadata", [None, {}, {"tone": None}, {"tone": " \t"}, {"Tone": "kind"}])
def test_an_answer_is_not_graded_by_a_field_that_the_record_lacks(
    metadata: dict[str, object] | None,
) -> None:
    grader = check("like", reference="{{ item.metadata.tone }}")
    assert lacking(grader, metadata or {}) == ["tone"]
    with pytest.raises(InvalidArgument, match="lacking") as refused:
        grade(grader, output_text="kind words", metadata=metadata)
    assert (refused.value.field, refused.value.reason) == ("metadata.tone", "LACKS_FIELD")
    assert grade(grader, output_text="kind words", metadata={"tone": "kind"}) == 1
    assert grade(grader, output_text="false", metadata={"tone": False}) == 1


@pytest.mark.parametrize(
    ("grader", "field", "message"),
    [
        (Grader(kind="score_model", name="a"), "g.type", "'score_model' is neither"),
        (similarity("cosine"), "g.evaluation_metric", "needs an embedding model"),
        (similarity("meteor"), "g.evaluation_metric", "needs a lexicon"),
        (similarity("bert"), "g.evaluation_metric", "'bert' is none of fuzzy_match, bleu"),
        (similarity(""), "g.evaluation_metric", "'' is none of"),
        (check("matches"), "g.operation", "'matches' is none of eq, ne, like, ilike"),
        (check(""), "g.operation", "'' is none of"),
        (
            Grader(kind="text_similarity", name="a", evaluation_metric="bleu", operation="eq"),
            "g.operation",
            "is of a string_check",
        ),
        (Grader(kind="string_check", name="", operation="eq"), "g.name", "is not 1 to 64"),
        (Grader(kind="string_check", name="a\n", operation="eq"), "g.name", "is not 1 to 64"),
        (Grader(kind="string_check", name="a" * 65, operation="eq"), "g.name", "is not 1 to 64"),
        (check("eq", input="{{item.answer}}"), "g.input", "{{item.answer}} is not known"),
        (check("eq", reference="{{item.metadata.}}"), "g.reference", "is not known"),
        (check("eq", input="{{ sample.output_text"), "g.input", "is not closed"),
        (check("eq", reference="{{item.prompt}} {{x"), "g.reference", "'{{x' is not closed"),
        (check("eq", input="x" * 4097), "g.input", "4097 characters; at most 4096"),
        (check("eq", input="{{item.prompt}}" * 9), "g.input", "9 variables; at most 8"),
    ],
)
def test_what_is_no_grader_is_refused(grader: Grader, field: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_grader(grader, "g")
    assert refused.value.field == field
    assert message in refused.value.message
    with pytest.raises(InvalidArgument):
        grade(grader, output_text="a")


def test_a_template_that_never_ends_its_variable_is_read_at_once() -> None:
    # The cube of its white space would be minutes.
    hostile = Grader(kind="string_check", name="g", operation="eq", input="{{" + " " * 4000)
    with pytest.raises(InvalidArgument, match="is not closed"):
        check_grader(hostile, "grader")
