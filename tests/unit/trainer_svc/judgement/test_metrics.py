"""Each metric of two texts: values by hand, and what must hold of any text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailorbird.errors import InvalidArgument
from trainer_svc.judgement import metrics
from trainer_svc.judgement.metrics import (
    TEXT_METRICS,
    Text,
    exact_match,
    phrases,
    rouge_l,
    rouge_n,
    score,
    token_f1,
)
from trainer_svc.judgement.tokens import MAX_PIECES, MAX_TOKENS, pieces, words

TEXTS = st.text(max_size=60) | st.sampled_from(
    ["", "\0", "👍", "the cat sat", "שלום עולם", "e\u0301"]
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat's hat, 3.5 m!", ["the", "cat", "s", "hat", "3", "5", "m"]),
        ("Straße", ["strasse"]),
        ("我爱你 OK", ["我", "爱", "你", "ok"]),
        ("ดีมาก", ["ดี", "ม", "า", "ก"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("한국어 말", ["한국어", "말"]),
        ("שלום, עולם", ["שלום", "עולם"]),
        ("a\0b", ["a", "b"]),
        ("👍 …", []),
    ],
)
def test_words_of_any_language(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_words_are_the_same_however_accents_are_written() -> None:
    assert words("cafe\u0301") == words("CAFÉ") == ["café"]


def test_ascii_is_cut_like_everything_else() -> None:
    printed = "".join(map(chr, range(128)))
    assert [*words(printed), "ü"] == words(printed + " ü")


def test_only_the_start_of_an_endless_text_is_read() -> None:
    assert len(words("a " * 10_000)) == MAX_TOKENS
    assert len(pieces("a " * 10_000)) == MAX_PIECES
    assert words("a" * 50_000) == ["a" * 40_000]
    assert pieces("a" * 50_000) == ["a" * 40_000]


def test_pieces_keep_case_and_punctuation() -> None:
    assert pieces("Is it 我爱?") == ["Is", "it", "我", "爱", "?"]


@pytest.mark.parametrize(
    ("expected", "answer", "exact", "f1", "rouge"),
    [
        ("the cat sat", "the cat sat", 1, 1, 1),
        ("the cat sat", "The cat sat.", 0, 1, 1),
        ("  caf\u00e9\n", "cafe\u0301", 1, 1, 1),
        # Two of three and two of two words: 2 * 2 / 5.
        ("the cat sat", "cat the", 0, 0.8, 0.4),
        # "a" counts once for each time it stands: 2 * 1 / 4.
        ("a a a", "a", 0, 0.5, 0.5),
        ("yes", "", 0, 0, 0),
        ("👍", "👎", 0, 0, 0),
        ("👍", "👍", 1, 1, 1),
        ("", "", 1, 1, 1),
    ],
)
def test_values_by_hand(expected: str, answer: str, exact: float, f1: float, rouge: float) -> None:
    assert exact_match(expected, answer) == exact
    assert token_f1(expected, answer) == pytest.approx(f1)
    assert rouge_l(expected, answer) == pytest.approx(rouge)


def test_rouge_2_by_hand() -> None:
    # the·cat, cat·sat, sat·down and the·cat, cat·ran: one of each, 2 * 1 / 5.
    assert rouge_n("the cat sat down", "the cat ran", 2) == pytest.approx(0.4)
    assert rouge_n("yes", "yes", 5) == 1
    assert rouge_n("yes", "one two three four five six", 5) == 0


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_every_metric_is_symmetric_and_between_0_and_1(first: str, second: str) -> None:
    for metric in TEXT_METRICS:
        value = score(metric, first, second)
        assert 0 <= value <= 1
        assert value == score(metric, second, first)


@settings(deadline=None)
@given(TEXTS, st.sampled_from(["", " ", "\n\t"]))
def test_an_exact_match_is_the_best_by_every_metric(text: str, around: str) -> None:
    for metric in TEXT_METRICS:
        assert score(metric, text, around + text + around) == 1
    for n in range(1, 6):
        assert rouge_n(text, text, n) == 1


def test_lines_of_10_000_characters_are_measured() -> None:
    line = "lorem ipsum " * 834
    assert token_f1(line, line[:5004]) == pytest.approx(2 / 3, abs=0.01)
    assert rouge_l(line, line[:5004]) == pytest.approx(2 / 3, abs=0.01)


def test_a_metric_that_there_is_not() -> None:
    with pytest.raises(InvalidArgument, match="'bertscore' is none of exact_match"):
        score("bertscore", "a", "a")


@pytest.mark.parametrize(
    ("answer", "required", "forbidden", "share"),
    [
        ("Kind regards, Ann", ["kind regards"], [], 1),
        ("Kind  regards", ["kind regards"], ["cheers"], 1),
        ("Cheers!", ["kind regards"], ["cheers"], 0),
        ("Kind regards. Cheers", ["kind regards"], ["cheers"], 0.5),
        ("cheersful", [], ["cheers"], 1),
        ("thanks 🙏", ["🙏"], [], 1),
        ("", ["a", "b"], ["c", "d"], 0.5),
        ("我们很高兴", ["很高兴"], [], 1),
    ],
)
def test_phrases(answer: str, required: list[str], forbidden: list[str], share: float) -> None:
    assert phrases(answer, required, forbidden) == share


def test_there_is_nothing_to_say_without_phrases() -> None:
    with pytest.raises(ValueError, match="no phrases"):
        phrases("a", [], [])


def test_a_run_of_marks_does_not_take_its_square() -> None:
    run = "e" + "\u0301\u0316" * 70_000
    assert exact_match(run, run) == 1
    assert exact_match(run, "e") == 0
    assert exact_match("e\u0301", "\u00e9") == 1
    assert token_f1(run, f"{run} more") == pytest.approx(2 / 3)


def test_white_space_before_a_text_hides_none_of_it() -> None:
    assert token_f1("yes", " " * 500_000 + "yes") == 1


def test_what_a_text_is_compared_by_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def words(text: str) -> list[str]:
        read.append(text)
        return text.split()

    monkeypatch.setattr(metrics, "words", words)
    expected, said = Text("a b"), Text("a c")
    assert [token_f1(expected, said), rouge_l(expected, said)] == [0.5, 0.5]
    assert read == ["a b", "a c"]
