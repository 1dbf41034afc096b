"""The graders that OpenAI's fine-tuning has, of the kinds that need no model; `grade` runs one.

developers.openai.com/api/docs/guides/graders: `string_check` (eq, ne, like, ilike) is 1 or 0,
`text_similarity` is from 0 to 1. `input` and `reference` are templates, of which these are known:

    {{sample.output_text}}    the answer
    {{item.expected}}         the expected answer
    {{item.prompt}}           the prompt, as text
    {{item.metadata.KEY}}     a field of the record's metadata

A record that lacks such a field cannot be graded: whatever is put in its place would pass or fail
for everybody.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rapidfuzz import fuzz
from sacrebleu.metrics import BLEU

from tailorbird.errors import InvalidArgument
from trainer_svc.judgement.metrics import rouge_l, rouge_n
from trainer_svc.judgement.model import Grader
from trainer_svc.judgement.tokens import normalised, pieces

MAX_TEMPLATE = 4096
MAX_NAME = 64
_MAX_SHOWN = 64

_MAX_VARIABLES = 8
"""Of a template: each may be filled with a long text."""

_MAX_RENDERED = 20_000
"""Characters of a filled template that are compared, from its start."""

# White space within is not the pattern's to find: that takes the cube of a template's length.
_VARIABLE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_PLAIN = ("sample.output_text", "item.expected", "item.prompt")
_METADATA = "item.metadata."
_NAME = re.compile(rf"[A-Za-z0-9_. -]{{1,{MAX_NAME}}}")
_NEEDS_A_MODEL = {
    "cosine": "needs an embedding model",
    "meteor": "needs a lexicon of synonyms",
}


def grade(
    grader: Grader,
    *,
    output_text: str,
    expected: str = "",
    prompt: str = "",
    metadata: Mapping[str, Any] | None = None,
) -> float:
    """Return the grader's score of one answer, 0 to 1.

    InvalidArgument: the grader is not one of those above (see `check_grader`), or `metadata` lacks
    a field that it names (LACKS_FIELD, see `lacking`); such records are left out of a judgement.
    """
    check_grader(grader, "grader")
    missing = lacking(grader, metadata or {})
    if missing:
        raise InvalidArgument(
            f"metadata.{missing[0][:MAX_NAME]}",
            f"is lacking, and the grader {grader.name!r} names it",
            reason="LACKS_FIELD",
        )
    values = {
        "sample.output_text": output_text,
        "item.expected": expected,
        "item.prompt": prompt,
        **{_METADATA + key: _said(value) for key, value in (metadata or {}).items()},
    }
    compare = _OPERATIONS.get(grader.operation) or _SIMILARITIES[grader.evaluation_metric]
    return compare(_filled(grader.input, values), _filled(grader.reference, values))


def check_grader(grader: Grader, field: str) -> None:
    """Raise InvalidArgument, which names the part of `field`, for what is no grader of ours."""
    if not _NAME.fullmatch(grader.name):
        raise InvalidArgument(
            f"{field}.name",
            f"{grader.name[:MAX_NAME]!r} is not 1 to {MAX_NAME} letters, digits, spaces, _ . or -",
        )
    for part, template in (("input", grader.input), ("reference", grader.reference)):
        _check_template(template, f"{field}.{part}")
    if grader.kind == "string_check":
        _check_one_of(grader.operation, _OPERATIONS, f"{field}.operation")
    elif grader.kind == "text_similarity":
        _check_similarity(grader, f"{field}.evaluation_metric")
    else:
        raise InvalidArgument(
            f"{field}.type",
            f"{grader.kind[:64]!r} is neither string_check nor text_similarity: graders that need a"
            " model or run code are not offered",
            reason="UNKNOWN_GRADER",
        )


def metadata_keys(grader: Grader) -> Iterator[tuple[str, str]]:
    """Yield each field of a record's metadata that is filled in, after `input` or `reference`."""
    for part, template in (("input", grader.input), ("reference", grader.reference)):
        for name in _names(template):
            if name.startswith(_METADATA):
                yield part, name.removeprefix(_METADATA)


def lacking(grader: Grader, metadata: Mapping[str, Any]) -> list[str]:
    """Return the fields that the grader names and a record's metadata has not, each once.

    What is null or a blank text is not there, as for slices.
    """
    named = dict.fromkeys(key for _, key in metadata_keys(grader))
    return [key for key in named if is_blank(metadata.get(key))]


def is_blank(value: object) -> bool:
    """Tell whether a field of metadata says nothing: null, or a text of white space."""
    return value is None or (isinstance(value, str) and not value.strip())


def _check_similarity(grader: Grader, field: str) -> None:
    if grader.operation:
        raise InvalidArgument(
            field.replace("evaluation_metric", "operation"), "is of a string_check"
        )
    why = _NEEDS_A_MODEL.get(grader.evaluation_metric)
    if why:
        raise InvalidArgument(
            field,
            f"{grader.evaluation_metric!r} {why}; offered: {', '.join(_SIMILARITIES)}",
            reason="GRADER_NEEDS_A_MODEL",
        )
    _check_one_of(grader.evaluation_metric, _SIMILARITIES, field)


def _check_one_of(value: str, known: Mapping[str, object], field: str) -> None:
    if value not in known:
        raise InvalidArgument(field, f"{value[:64]!r} is none of {', '.join(known)}")


def _check_template(template: str, field: str) -> None:
    if len(template) > MAX_TEMPLATE:
        raise InvalidArgument(field, f"{len(template)} characters; at most {MAX_TEMPLATE}")
    left = _VARIABLE.sub("", template)
    if "{{" in left:
        unclosed = left[left.index("{{") :][:_MAX_SHOWN]
        raise InvalidArgument(field, f"{unclosed!r} is not closed: }}}} is expected after the name")
    names = _names(template)
    if len(names) > _MAX_VARIABLES:
        raise InvalidArgument(field, f"{len(names)} variables; at most {_MAX_VARIABLES}")
    for name in names:
        if name not in _PLAIN and not (name.startswith(_METADATA) and name != _METADATA):
            raise InvalidArgument(
                field,
                f"{{{{{name[:64]}}}}} is not known; there are {', '.join(_PLAIN)}"
                f" and {_METADATA}KEY",
            )


def _names(template: str) -> list[str]:
    return [name.strip() for name in _VARIABLE.findall(template)]


def _filled(template: str, values: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda match: values[match[1].strip()], template)


def _said(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _equal(text: str, reference: str) -> float:
    return float(text == reference)


def _unequal(text: str, reference: str) -> float:
    return float(text != reference)


def _contains(text: str, reference: str) -> float:
    return float(reference in text)


def _contains_in_any_case(text: str, reference: str) -> float:
    return float(reference.casefold() in text.casefold())


def _fuzzy_match(text: str, reference: str) -> float:
    """Return rapidfuzz's ratio: the share of characters that need not be inserted or deleted."""
    return fuzz.ratio(text[:_MAX_RENDERED], reference[:_MAX_RENDERED]) / 100


def _bleu(text: str, reference: str) -> float:
    """Return sentence BLEU by sacrebleu, up to the order that a short text has."""
    hypothesis, wanted = " ".join(pieces(text)), " ".join(pieces(reference))
    if not hypothesis or not wanted:
        return float(normalised(text) == normalised(reference))
    # Its own tokenisers keep what they have read, which here is tenants' data.
    bleu = BLEU(tokenize="none", force=True, effective_order=True)
    return min(1.0, float(bleu.sentence_score(hypothesis, [wanted]).score) / 100)


def _rouge(n: int) -> Callable[[str, str], float]:
    return lambda text, reference: rouge_n(reference, text, n)


_OPERATIONS: Mapping[str, Callable[[str, str], float]] = {
    "eq": _equal,
    "ne": _unequal,
    "like": _contains,
    "ilike": _contains_in_any_case,
}
_SIMILARITIES: Mapping[str, Callable[[str, str], float]] = {
    "fuzzy_match": _fuzzy_match,
    "bleu": _bleu,
    **{f"rouge_{n}": _rouge(n) for n in range(1, 6)},
    "rouge_l": lambda text, reference: rouge_l(reference, text),
}
