"""Patterns that would take all memory when they are compiled are refused before."""

from __future__ import annotations

import json

import pytest

from tailorbird.errors import InvalidArgument
from trainer_svc.judgement.json_pattern import MAX_PARTS, parts
from trainer_svc.judgement.json_schema import JsonSchema

_SEMVER = (
    r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-((?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)"
    r"(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*))?(?:\+([0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?$"
)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (_SEMVER, "1.2.3-rc.1+b5"),
        (r"^(([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}|([0-9a-f]{1,4}:){1,7}:)$", "1:2:3:4:5:6:7:8"),
        (r"^(?i:[a-z]+)(\((?:x|[)(\]]+)\))+$", "Ab(x)()])"),
        (r"^[]a]+[^]b]{2}(?P<year>\d{4})(?=-)", "]a]cc2026-"),
        (r"(?i)^[é]+$", "É"),
        ("^" + "(?:a|b)" * 1000, "ab" * 500),
    ],
)
def test_a_usual_pattern_is_taken(pattern: str, text: str) -> None:
    given = JsonSchema(json.dumps({"items": {"pattern": pattern}}))
    assert given.is_met([text])
    assert not given.is_met(["\n"])


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("", 0),
        ("abc", 3),
        (r"\(a\)", 3),
        ("[(+)]+", 2),
        ("a{7,9}b*c?", 8 + 2 + 2 + 3),
        ("(ab)", 3),
        ("(ab)*(ab)?", 8),
        ("(ab)+", 6),
        ("(ab){2}", 3 * 3 + 1),
        ("((ab){2}c)+", 2 * (1 + 10 + 1)),
    ],
)
def test_what_is_repeated_counts_again(pattern: str, count: int) -> None:
    assert parts(pattern) == count


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(?:" * 40 + "a" + "+)" * 40 + "+", "too large"),
        ("(" * 12 + "a" + "){2}" * 12, "too large"),
        ("a{100000000}", "too large"),
        ("(?:ab|c){1000000,}", "too large"),
        ("(?:[ab]{300}c){300}", "too large"),
        ("a{" + "9" * 5000 + "}", "too large"),
        ("a{1," + "9" * 20 + "}", "too big|too large"),
        # Brackets in these are none, and would hide how deep the others are.
        ("(?#[)a", "not supported"),
        ("(?x)a # [\n", "not supported"),
        ("(?ix:a)", "not supported"),
        ("(?V1)[[a]]", "not supported"),
        ("[a[:alpha:](]", r"\[: within a set"),
        ("(a))", "not opened|unbalanced"),
        ("((a)", "not closed|missing|unterminated"),
        ("[a", "not closed|unterminated"),
    ],
)
def test_a_pattern_that_is_large_or_unclear_is_refused(pattern: str, why: str) -> None:
    # No draft knows of this place: only the bounds of ours look at it.
    with pytest.raises(InvalidArgument, match=why) as refused:
        JsonSchema(json.dumps({"ours": {"pattern": pattern}, "$ref": "#/ours"}))
    assert refused.value.field == "job.spec.evaluation.json_schema"
    assert len(refused.value.message) < 500
    with pytest.raises(InvalidArgument, match=why):
        JsonSchema(json.dumps({"pattern": pattern}))


def test_the_patterns_of_a_schema_are_bounded_together() -> None:
    one = {"pattern": "(" * 8 + "a" + "){2}" * 8}
    assert 2 * parts(one["pattern"]) < MAX_PARTS < 3 * parts(one["pattern"])
    JsonSchema(json.dumps({"allOf": [one] * 2}))
    with pytest.raises(InvalidArgument, match="too large"):
        JsonSchema(json.dumps({"allOf": [one] * 3}))


def test_many_brackets_are_counted_soon() -> None:
    with pytest.raises(ValueError, match="set is not closed"):
        parts("[" * 16_000)


def test_a_bracket_that_is_not_closed_hides_nothing() -> None:
    with pytest.raises(ValueError, match="bracket is not closed"):
        parts("((a)")
