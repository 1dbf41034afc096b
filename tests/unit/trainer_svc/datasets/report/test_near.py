"""What is almost as an earlier record is found; what shares only a template with it is not."""

from __future__ import annotations

import pytest

from tests.unit.trainer_svc.datasets.report.planted import clean, looked_at, pairs, sentences
from trainer_svc.datasets.content import Content
from trainer_svc.datasets.report import near
from trainer_svc.datasets.report.model import NearDuplicates


def found(*given: tuple[str, str]) -> NearDuplicates:
    return looked_at(pairs(*given)).near_duplicates


def test_a_record_with_a_word_changed_is_told_with_the_line_it_is_like() -> None:
    given = clean(300)
    question, answer = given[40]
    given[250] = (question.replace(question.split()[5], "another"), answer)
    given[260] = (question.upper() + "!", f"  {answer}.")
    report = looked_at(pairs(*given)).near_duplicates
    assert (report.compared, report.found) == (300, 2)
    changed, louder = report.pairs
    assert (changed.line, changed.near_to) == (251, 41)
    assert 0.8 <= changed.similarity < 1
    assert (louder.line, louder.near_to, louder.similarity) == (261, 41, 1.0)


@pytest.mark.parametrize("count", [40, 400])
def test_a_template_that_all_share_makes_none_alike(count: int) -> None:
    template = " ".join(sentences(1, words=100, seed=7))
    given = [(f"{template} {question}", answer) for question, answer in clean(count)]
    given[-1] = (given[20][0], given[20][1] + " and")
    report = found(*given)
    assert report.found == 1
    assert (report.pairs[0].line, report.pairs[0].near_to) == (count, 21)


@pytest.mark.parametrize("copies", [30, 51, 60, 95, 100])
@pytest.mark.parametrize("system", ["", " ".join(sentences(1, words=40, seed=7))])
def test_copies_are_found_however_many_of_the_records_they_are(copies: int, system: str) -> None:
    question, answer = clean(1)[0]
    alike = [(f"{question}{'?' * n}", answer) for n in range(copies)]
    given = alike + clean(100 - copies, seed=1)
    report = found(*((f"{system} {question}", answer) for question, answer in given))
    assert (report.compared, report.found) == (100, copies - 1)
    assert {(pair.near_to, pair.similarity) for pair in report.pairs} == {(1, 1.0)}


@pytest.mark.parametrize("copies", [30, 60, 85])
def test_most_records_with_one_word_of_their_own_are_alike(copies: int) -> None:
    (question, answer), *others = clean(101 - copies)
    alike = [(f"{question} {word} please", answer) for word in sentences(copies, words=1, seed=2)]
    # Similarity is estimated, and is not far above the least.
    assert 0.9 * copies < found(*alike, *others).found < copies


@pytest.mark.parametrize(("frame", "words"), [(0, 1), (60, 1), (60, 3), (200, 3), (60, 20)])
def test_a_template_with_short_places_to_fill_makes_none_alike(frame: int, words: int) -> None:
    template = " ".join(sentences(1, words=frame, seed=7))
    asked = sentences(100, words=words, seed=8)
    given = [(f"{template} {one}", ["good", "bad"][n % 2]) for n, one in enumerate(asked)]
    assert found(*given).found == 0


def test_a_template_of_most_records_makes_none_alike() -> None:
    template = " ".join(sentences(1, words=200, seed=7))
    texts = sentences(120, words=4)
    framed = [
        (f"{template} {one}", other) for one, other in zip(texts[::2], texts[1::2], strict=True)
    ]
    assert found(*framed, *clean(40, seed=1)).found == 0


def test_each_of_five_characters_counts() -> None:
    words = ["abcde", "bbcde", "aacde", "abbde", "abcce", "abcdd"]
    shingles = [near._shingles(Content((), word)).tolist() for word in words]
    assert len({tuple(one) for one in shingles}) == len(words)


def test_of_few_records_no_template_is_taken_away() -> None:
    question, answer = clean(1)[0]
    assert found(*((f"{question} {n}", answer) for n in range(15))).found == 14


def test_what_is_too_short_to_be_like_another_is_not() -> None:
    assert found(*((f"a {n}", "yes") for n in range(100))).found == 0


def test_no_more_than_the_first_records_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "_MAX_RECORDS", 50)
    given = clean(60)
    given[30] = (given[3][0] + "!", given[3][1])
    given[55] = (given[4][0] + "!", given[4][1])
    report = found(*given)
    assert (report.compared, report.found) == (50, 1)


def test_the_first_twenty_are_shown() -> None:
    given = clean(40)
    report = found(*given, *((question + "!", answer) for question, answer in given))
    assert report.found == 40
    assert [(pair.line, pair.near_to) for pair in report.pairs] == [
        (n, n - 40) for n in range(41, 61)
    ]


def test_thousands_that_are_all_alike_are_compared_with_one() -> None:
    question, answer = clean(1)[0]
    alike = [(f"{question}", f"{answer} {n}") for n in range(3000)]
    report = found(*clean(256), *alike)
    assert report.compared == 3256
    assert report.found >= 2990


def test_a_text_without_words_has_no_likeness() -> None:
    assert found(*(("?" * n, "!") for n in range(1, 30))).found == 0
