"""What an evaluation spec may ask for: every bound, checked before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tailorbird.errors import InvalidArgument
from trainer_svc.judgement.graders import check_grader
from trainer_svc.judgement.interchangeable import DEFAULT
from trainer_svc.judgement.json_schema import JsonSchema
from trainer_svc.judgement.kinds import check_primary, kind_of, primary_metric
from trainer_svc.judgement.model import EvaluationSpec, Grader

FIELD = "job.spec.evaluation"

MAX_PHRASES = 64
MAX_PHRASE = 200
MAX_GRADERS = 8
MAX_SLICE_FIELDS = 5
MAX_SLICE_FIELD = 64
MAX_SETS = 16
MAX_SET_WORDS = 32
MAX_WORD = 64
MAX_FEW_SHOT = 8
MIN_RECORDS = 10
MAX_RECORDS = 1000
MAX_RETENTION_LOSS = 100.0

_GRADER_FIELDS = {"operation": "string_check", "evaluation_metric": "text_similarity"}
"""What the API calls a grader's fields."""


def check_spec(spec: EvaluationSpec) -> None:
    """Raise InvalidArgument, which names the field of `job.spec.evaluation`, for what is too much.

    What depends on the data, `check_answers` says.
    """
    _check_texts(spec.required_phrases, "required_phrases", MAX_PHRASES, MAX_PHRASE)
    _check_texts(spec.forbidden_phrases, "forbidden_phrases", MAX_PHRASES, MAX_PHRASE)
    _check_apart(spec)
    _check_texts(spec.slice_fields, "slice_fields", MAX_SLICE_FIELDS, MAX_SLICE_FIELD)
    _check_graders(spec)
    check_primary(spec)
    if spec.json_schema:
        JsonSchema(spec.json_schema, f"{FIELD}.json_schema")
    _check_sets(spec.counterfactuals)
    _check_within(spec.few_shot_examples, "few_shot_examples", 0, MAX_FEW_SHOT)
    _check_within(spec.max_records, "max_records", MIN_RECORDS, MAX_RECORDS)
    _check_within(spec.max_slice_drop, "max_slice_drop", 0, 1)
    _check_within(spec.max_retention_loss, "max_retention_loss", 0, MAX_RETENTION_LOSS)
    _check_within(spec.max_forgotten, "max_forgotten", 0, 1)
    if spec.max_counterfactual_changes is not None:
        if not spec.counterfactuals:
            raise InvalidArgument(
                f"{FIELD}.max_counterfactual_changes", "needs sets of words in counterfactuals"
            )
        _check_within(spec.max_counterfactual_changes, "max_counterfactual_changes", 0, 1)


def check_answers(
    spec: EvaluationSpec,
    prompts: Sequence[str],
    expected: Sequence[str],
    training_answers: Sequence[str] = (),
) -> None:
    """Raise InvalidArgument for what cannot be judged of these data.

    That is a primary metric which the expected answers do not have, or a schema that none of them
    meets. `prompts` and `expected` are of the held-out records.
    """
    kind = kind_of(prompts, expected, training_answers)
    primary_metric(spec, kind)
    if not spec.json_schema:
        return
    schema = JsonSchema(spec.json_schema, f"{FIELD}.json_schema")
    if expected and not schema.is_met_by_any(expected):
        raise InvalidArgument(
            f"{FIELD}.json_schema",
            f"none of the {len(expected)} expected answers meets it",
            reason="SCHEMA_MET_BY_NONE",
        )


def _check_graders(spec: EvaluationSpec) -> None:
    field = f"{FIELD}.graders"
    if len(spec.graders) > MAX_GRADERS:
        raise InvalidArgument(field, f"{len(spec.graders)} graders; at most {MAX_GRADERS}")
    names: set[str] = set()
    for index, grader in enumerate(spec.graders):
        _check_grader(grader, f"{field}[{index}]")
        if grader.name in names:
            raise InvalidArgument(f"{field}[{index}].name", f"{grader.name!r} is there already")
        names.add(grader.name)


def _check_grader(grader: Grader, field: str) -> None:
    try:
        check_grader(grader, field)
    except InvalidArgument as error:
        part = error.field.removeprefix(f"{field}.")
        raise InvalidArgument(
            f"{field}.{_GRADER_FIELDS.get(part, part)}", error.description, reason=error.reason
        ) from error


def _check_apart(spec: EvaluationSpec) -> None:
    """Check that no phrase is asked for and forbidden: every answer would be half wrong."""
    required = {phrase.casefold() for phrase in spec.required_phrases}
    for index, phrase in enumerate(spec.forbidden_phrases):
        if phrase.casefold() in required:
            raise InvalidArgument(
                f"{FIELD}.forbidden_phrases[{index}]", f"{phrase!r} is a required phrase as well"
            )


def _check_sets(sets: Sequence[Sequence[str]]) -> None:
    field = f"{FIELD}.counterfactuals"
    if len(sets) > MAX_SETS:
        raise InvalidArgument(field, f"{len(sets)} sets of words; at most {MAX_SETS}")
    for index, words in enumerate(sets):
        if tuple(words) == (DEFAULT,):
            continue
        _check_texts(words, f"counterfactuals[{index}]", MAX_SET_WORDS, MAX_WORD)
        if len(words) < 2:
            raise InvalidArgument(
                f"{field}[{index}]", f"two words or more are expected, or {DEFAULT!r} alone"
            )


def _check_texts(texts: Sequence[str], name: str, most: int, longest: int) -> None:
    """Check how many there are, how long each is, that none is empty or there twice."""
    field = f"{FIELD}.{name}"
    if len(texts) > most:
        raise InvalidArgument(field, f"{len(texts)} entries; at most {most}")
    for index, text in enumerate(texts):
        at = f"{field}[{index}]"
        if not text.strip():
            raise InvalidArgument(at, "empty")
        if len(text) > longest:
            raise InvalidArgument(at, f"{len(text)} characters; at most {longest}")
        if text in texts[:index]:
            raise InvalidArgument(at, f"{text!r} is there already")


def _check_within(value: float, name: str, low: float, high: float) -> None:
    if not math.isfinite(value) or not low <= value <= high:
        raise InvalidArgument(
            f"{FIELD}.{name}", f"{value:.15g} is not at least {low:g} and at most {high:g}"
        )
