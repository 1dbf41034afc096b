"""What the expected answers are, and the one metric that decides over a promotion.

The kind, by the held-out answers and a sample of the training's, in this order:

JSON     nine of ten are a JSON object or array
LABELS   at most 50 different ones, none longer than 64 characters or one line, each given three
         times in the mean
SUMMARY  eight of ten held-out ones have 20 words or more, and at most a third of their prompt's
TEXT     whatever else
"""

from __future__ import annotations

from collections.abc import Sequence

from tailorbird.errors import InvalidArgument
from trainer_svc.judgement.json_text import parsed
from trainer_svc.judgement.labels import Classes
from trainer_svc.judgement.model import AnswerKind, EvaluationSpec
from trainer_svc.judgement.tokens import normalised, words

GRADER_PREFIX = "grader:"
METRICS = (
    "exact_match",
    "token_f1",
    "rouge_l",
    "label_accuracy",
    "macro_f1",
    "json_validity",
    "field_accuracy",
    "phrases",
)

_FIELD = "job.spec.evaluation.primary_metric"
_MAX_CLASSES = 50
_MAX_LABEL = 64
_ANSWERS_PER_CLASS = 3
_JSON_SHARE = 0.9
_SUMMARY_SHARE = 0.8
_SUMMARY_WORDS = 20
_SUMMARY_RATIO = 1 / 3

_CHOSEN = {
    AnswerKind.LABELS: ("label_accuracy", "the expected answers form few classes"),
    AnswerKind.JSON: ("field_accuracy", "the expected answers are JSON"),
    AnswerKind.SUMMARY: (
        "rouge_l",
        "the expected answers are long, and much shorter than what they answer",
    ),
    AnswerKind.TEXT: ("token_f1", "the expected answers are texts"),
}
_NEEDS = {
    "label_accuracy": (AnswerKind.LABELS, "the expected answers form no few classes"),
    "macro_f1": (AnswerKind.LABELS, "the expected answers form no few classes"),
    "json_validity": (AnswerKind.JSON, "the expected answers are not JSON"),
    "field_accuracy": (AnswerKind.JSON, "the expected answers are not JSON"),
}


def kind_of(
    prompts: Sequence[str], expected: Sequence[str], training_answers: Sequence[str] = ()
) -> AnswerKind:
    """Return the kind of the answers; `prompts` and `expected` are of the held-out records."""
    answers = [*expected, *training_answers]
    if not answers:
        return AnswerKind.TEXT
    if sum(parsed(answer) is not None for answer in answers) >= _JSON_SHARE * len(answers):
        return AnswerKind.JSON
    if _form_classes(answers):
        return AnswerKind.LABELS
    shortened = sum(map(_is_summary, prompts, expected))
    if expected and shortened >= _SUMMARY_SHARE * len(expected):
        return AnswerKind.SUMMARY
    return AnswerKind.TEXT


def primary_metric(spec: EvaluationSpec, kind: AnswerKind) -> tuple[str, str]:
    """Return the metric that decides, and the sentence that says why this one.

    InvalidArgument: the spec names one that there is not, or that cannot be had of such answers.
    """
    if not spec.primary_metric:
        name, why = _CHOSEN[kind]
        return name, f"{name}, because {why}"
    check_primary(spec)
    needed, why = _NEEDS.get(spec.primary_metric, (kind, ""))
    if needed is not kind:
        raise InvalidArgument(
            _FIELD,
            f"{spec.primary_metric!r} cannot be measured: {why};"
            f" {_CHOSEN[kind][0]} would be chosen for them",
            reason="METRIC_NOT_APPLICABLE",
        )
    return spec.primary_metric, f"{spec.primary_metric}, named in the spec"


def check_primary(spec: EvaluationSpec) -> None:
    """Raise InvalidArgument if the metric that the spec names is none, whatever the answers are."""
    name = spec.primary_metric
    if name == "phrases" and not (spec.required_phrases or spec.forbidden_phrases):
        raise InvalidArgument(_FIELD, "'phrases' needs required_phrases or forbidden_phrases")
    graders = [GRADER_PREFIX + grader.name for grader in spec.graders]
    if name and name not in METRICS and name not in graders:
        known = ", ".join([*METRICS, *graders])
        raise InvalidArgument(_FIELD, f"{name[:80]!r} is none of {known[:1500]}")


def _form_classes(answers: Sequence[str]) -> bool:
    if any(len(answer) > 2 * _MAX_LABEL for answer in answers):
        return False
    labels = [normalised(answer) for answer in answers]
    if any(len(label) > _MAX_LABEL or "\n" in label for label in labels):
        return False
    classes = len(Classes(labels))
    return classes <= _MAX_CLASSES and classes * _ANSWERS_PER_CLASS <= len(labels)


def _is_summary(prompt: str, expected: str) -> bool:
    length = len(words(expected))
    return length >= _SUMMARY_WORDS and length <= _SUMMARY_RATIO * len(words(prompt))
