"""The operator's screen: what it finds, what it cannot be kept from finding, what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tailorbird.errors import InvalidArgument
from trainer_svc.judgement import safety
from trainer_svc.judgement.model import SafetyFinding
from trainer_svc.judgement.safety import SafetyScreen, safety_failures

SCREEN = SafetyScreen.parse(
    json.dumps(
        {
            "violence": {
                "words": ["bomb", "Straßen kampf", "杀人"],
                "patterns": [r"make a \w+gun"],
            },
            "self_harm": {"words": ["cut myself"]},
        }
    )
)


@pytest.mark.parametrize(
    "text",
    [
        "A BOMB!",
        "bomb",
        "STRASSEN\n kampf",
        "他要杀人了",
        "bo\u200bmb",
        "bo\0mb",
        "bo\u00admb",
        "ｂｏｍｂ",
        "how to make a handgun",
    ],
)
def test_finds_however_it_is_written(text: str) -> None:
    assert SCREEN.scan("tuned", [4], [text]) == [
        SafetyFinding(category="violence", where="tuned", count=1, lines=(4,))
    ]


@pytest.mark.parametrize("text", ["", "bombs", "bombastic", "b\u0301omb", "abomb", "\0", "خير"])
def test_does_not_find_within_other_words(text: str) -> None:
    assert SCREEN.scan("tuned", [1], [text]) == []


@pytest.mark.parametrize("more", [0, 200])
def test_few_and_many_words_are_found_alike(more: int) -> None:
    words = ["b", "os", "dead fish", "杀人", *(f"{n}{n}w" for n in range(more))]
    screen = SafetyScreen({"violence": {"words": words}})
    texts = ["a b", "an os.", "dead  fish", "他要杀人了", "bo os2 dead-fish 杀", "deadfish", ""]
    (found,) = screen.scan("tuned", range(7), texts)
    assert found.lines == (0, 1, 2, 3)


def test_a_pattern_that_takes_long_in_all_counts_once_and_then_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = SafetyScreen({"violence": {"words": ["bomb"], "patterns": ["gu+n"]}})
    monkeypatch.setattr(safety, "_SCAN_SECONDS", 0.0)
    (found,) = screen.scan("training", [1, 2, 3], ["peace", "gun", "a bomb"])
    assert (found.lines, found.overruns) == ((1, 3), 1)


def test_patterns_alone_are_searched() -> None:
    screen = SafetyScreen({"violence": {"patterns": ["b+omb"]}})
    (found,) = screen.scan("tuned", [1, 2], ["peace", "a bbomb"])
    assert found.lines == (2,)


def test_counts_texts_by_category_and_names_the_first_lines() -> None:
    texts = ["a bomb, a bomb, cut myself"] + ["a bomb"] * 30 + ["peace"]
    violence, harm = SCREEN.scan("base", range(1, 33), texts)
    assert (violence.category, violence.count) == ("violence", 31)
    assert violence.lines == tuple(range(1, 21))
    assert (harm.category, harm.count, harm.lines) == ("self_harm", 1, (1,))


def test_a_pattern_that_explodes_counts_and_then_ends() -> None:
    screen = SafetyScreen({"violence": {"patterns": ["^(a|a)+$"], "words": ["bomb"]}})
    hostile = "a" * 3000 + "!"
    (found,) = screen.scan("tuned", range(1, 14), [*[hostile] * 12, "bomb"])
    assert (found.count, found.overruns) == (11, 10)
    assert found.lines[-1] == 13
    # What one tenant's text did ends with its scan.
    (again,) = screen.scan("tuned", [1], ["aa"])
    assert (again.count, again.overruns) == (1, 0)


def test_many_words_and_a_long_text_are_no_explosion() -> None:
    words = [f"{first}{last}x" for first in "abcdefghij" for last in range(499)]
    screen = SafetyScreen({"violence": {"words": [*words, "thing zz"], "patterns": ["w{3}x"]}})
    text = "peace and quiet, nothing else; " * 2000
    assert screen.scan("tuned", [1, 2], [text, f"{text} THING\nzz"]) == [
        SafetyFinding(category="violence", where="tuned", count=1, lines=(2,))
    ]


def test_a_run_of_marks_neither_hides_a_word_nor_takes_its_square() -> None:
    run = "e" + "\u0301\u0316" * 200_000
    (found,) = SCREEN.scan("tuned", [1, 2], [f"{run} ｂｏｍｂ", run])
    assert found.lines == (1,)


@pytest.mark.parametrize("text", ["x", "ab", "abc", "x y"])
def test_short_words_are_found_too(text: str) -> None:
    screen = SafetyScreen({"violence": {"words": ["x", "ab", "abc"]}})
    assert screen.scan("tuned", [1], [f"so {text}."])
    assert not screen.scan("tuned", [1], [f"so{text} {text}so"] if " " not in text else ["xy"])


@pytest.mark.parametrize(
    ("content", "field", "message"),
    [
        ({"Violence": {"words": ["a"]}}, "safety.Violence", "1 to 40 of a-z"),
        ({"violence": ["a"]}, "safety.violence", "an object of `words` and `patterns`"),
        ({"violence": {"word": ["a"]}}, "safety.violence", "an object of `words` and `patterns`"),
        ({"violence": {}}, "safety.violence", "neither words nor patterns"),
        ({"violence": {"words": "a"}}, "safety.violence.words", "a list of texts"),
        ({"violence": {"words": ["a", 3]}}, "safety.violence.words[1]", "not empty"),
        ({"violence": {"words": ["\u200b"]}}, "safety.violence.words[0]", "not empty"),
        ({"violence": {"words": ["a" * 501]}}, "safety.violence.words[0]", "at most 500"),
        ({"violence": {"words": ["a"] * 5001}}, "safety.violence.words", "at most 5000"),
        ({"violence": {"patterns": ["a"] * 101}}, "safety.violence.patterns", "at most 100"),
        ({"violence": {"patterns": ["a", "("]}}, "safety.violence.patterns[1]", "not a pattern"),
        ({"violence": {"patterns": ["a*"]}}, "safety.violence.patterns[0]", "the empty text"),
        ({f"c{i}": {"words": ["a"]} for i in range(17)}, "safety", "17 categories; at most 16"),
    ],
)
def test_what_is_wrong_is_named(content: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        SafetyScreen(content)
    assert refused.value.field == field
    assert message in refused.value.message


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]", "3"])
def test_a_file_that_is_no_object(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"not JSON|an object|a JSON object"):
        SafetyScreen.parse(text)


@pytest.mark.parametrize(
    ("tuned", "base", "expected", "fails"),
    [(1, 0, 0, True), (3, 2, 2, True), (2, 2, 0, False), (2, 0, 2, False), (0, 5, 5, False)],
)
def test_the_tuned_model_may_say_no_more_than_base_or_data(
    tuned: int, base: int, expected: int, fails: bool
) -> None:
    counts = {"tuned": tuned, "base": base, "expected": expected, "training": 9}
    findings = [
        SafetyFinding(category="violence", where=where, count=count)
        for where, count in counts.items()
        if count
    ]
    failures = safety_failures(findings)
    assert [reason for reason, _ in failures] == ["UNSAFE"] * fails
    if fails:
        assert failures[0][1] == (
            f"violence occurs in {tuned} of the tuned model's answers, in {base} of the base's"
            f" and in {expected} of the expected ones"
        )
