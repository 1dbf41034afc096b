"""Each fault is found where it was planted, and nothing is found on clean data."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.trainer_svc.datasets.report.planted import clean, looked_at, pairs
from trainer_svc.datasets import index
from trainer_svc.datasets.report import lengths
from trainer_svc.datasets.report.limits import DataLimits, findings, to_tell
from trainer_svc.datasets.report.model import DatasetReport

EXAMPLES = Path(__file__).parents[5] / "examples"


def told(report: DatasetReport) -> list[str]:
    return [one.reason for one in to_tell(findings(report), DataLimits())]


@pytest.mark.parametrize("name", ["support/train", "support/train_v2", "invoices/train"])
def test_nothing_is_found_in_the_demo_s_data(name: str) -> None:
    lines = (EXAMPLES / f"{name}.jsonl").read_text("utf-8").splitlines()
    report = looked_at(map(json.loads, lines))
    assert told(report) == []
    assert report.records == report.compared == len(lines)
    assert (report.duplicates.surplus, report.near_duplicates.found) == (0, 0)
    assert report.near_duplicates.compared == len(lines)


def test_figures_of_a_small_file() -> None:
    report = looked_at(pairs(("é" * 15, "a" * 16), ("b", "c" * 40), ("d" * 17, "e" * 33)))
    assert (report.prompts.total, report.prompts.median, report.prompts.longest) == (33, 15, 17)
    assert [(one.at_least, one.below, one.records) for one in report.prompts.bins] == [
        (0, 16, 2),
        (16, 32, 1),
    ]
    assert [(one.at_least, one.below, one.records) for one in report.answers.bins] == [
        (16, 32, 1),
        (32, 64, 2),
    ]


def test_the_last_bin_has_no_end() -> None:
    counter = lengths.LengthCounter()
    for characters in (2**20 - 1, 2**20, 2**30):
        counter.add(characters)
    assert [(one.at_least, one.below, one.records) for one in counter.finish().bins] == [
        (2**19, 2**20, 1),
        (2**20, None, 2),
    ]


def test_duplicates_are_told_with_the_first_line_of_each() -> None:
    given = clean(100)
    given[10] = (f" {given[3][0]}\n", given[3][1])
    given[20] = given[3]
    report = looked_at(pairs(*given))
    assert report.duplicates.surplus == 2
    assert [(pair.line, pair.copy_of) for pair in report.duplicates.pairs] == [(11, 4), (21, 4)]
    assert report.duplicate_share == 0.02
    assert report.near_duplicates.found == 0
    assert told(report) == ["DUPLICATE_RECORDS"]


def test_one_duplicate_in_a_hundred_is_reported_and_not_warned_of() -> None:
    given = clean(100)
    report = looked_at(pairs(*given[:99], given[0]))
    assert report.duplicates.surplus == 1
    assert told(report) == []


def test_contradictory_answers_are_told_by_their_lines() -> None:
    given = clean(100)
    given[50] = (given[7][0], "something else that is long enough")
    given[60] = (given[7][0], "a third one that is long enough, too")
    given[61] = given[7]
    report = looked_at(pairs(*given))
    found = report.contradictions
    assert (found.questions, found.records) == (1, 4)
    assert [(one.answers, one.lines) for one in found.examples] == [(3, (8, 51, 61))]
    assert report.contradiction_share == 0.04
    assert told(report) == ["CONTRADICTORY_ANSWERS"]


def test_questions_are_shown_in_the_order_of_their_lines() -> None:
    given = clean(30)
    again = [(question, "something else that is long enough") for question, _ in given]
    found = looked_at(pairs(*given, *again)).contradictions
    assert (found.questions, found.records) == (30, 60)
    assert [one.lines for one in found.examples] == [(n, n + 30) for n in range(1, 21)]


def test_short_answers_are_told_where_answers_are_long() -> None:
    given = clean(40)
    given[5] = (given[5][0], " ok\n")
    given[9] = (given[9][0], "?")
    given[11] = (given[11][0], "yes")
    report = looked_at(pairs(*given))
    assert (report.short_answers.records, report.short_answers.lines) == (2, (6, 10))
    assert told(report) == ["SHORT_ANSWERS"]


def test_short_answers_are_no_fault_where_half_of_all_are_short() -> None:
    given = [(question, str(number)) for number, (question, _) in enumerate(clean(60))]
    assert looked_at(pairs(*given)).short_answers.records == 0


def test_labels_are_no_short_answers() -> None:
    given = clean(40)
    labels = ["no"] * 5 + ["a label of more than twenty characters"] * 35
    report = looked_at(
        pairs(*((question, one) for (question, _), one in zip(given, labels, strict=True)))
    )
    assert report.short_answers.records == 0
    assert [(one.label, one.records) for one in report.labels] == [(labels[-1], 35), ("no", 5)]


@pytest.mark.parametrize(("largest", "reasons"), [(90, []), (91, ["LABEL_IMBALANCE"])])
def test_a_class_that_nearly_all_have_is_told(largest: int, reasons: list[str]) -> None:
    given = [
        (question, " billing" if number < largest else "returns")
        for number, (question, _) in enumerate(clean(100))
    ]
    report = looked_at(pairs(*given))
    assert [(one.label, one.records) for one in report.labels] == [
        ("billing", largest),
        ("returns", 100 - largest),
    ]
    assert report.label_share == largest / 100
    assert told(report) == reasons


@pytest.mark.parametrize(
    ("answers", "words"), [(["yes", "yes"], "the only class"), (["yes", "no"], "the largest of 2")]
)
def test_the_largest_class_is_counted_among_all(answers: list[str], words: str) -> None:
    report = looked_at(pairs(*((f"is it {n}?", answers[n % 40 == 0]) for n in range(200))))
    (found,) = (one for one in findings(report) if one.reason == "LABEL_IMBALANCE")
    assert words in found.message


@pytest.mark.parametrize(
    ("classes", "characters", "each", "are_labels"),
    [
        (20, 64, 5, True),
        (21, 64, 5, False),
        (20, 65, 5, False),
        (20, 64, 4, False),
        (2, 200, 5, False),
    ],
)
def test_what_labels_are(classes: int, characters: int, each: int, are_labels: bool) -> None:
    answers = [f"{number:02}".ljust(characters, "x") for number in range(classes)] * each
    questions = (question for question, _ in clean(len(answers)))
    report = looked_at(pairs(*zip(questions, answers, strict=True)))
    assert len(report.labels) == (classes if are_labels else 0)


def test_languages_and_scripts_are_counted() -> None:
    written = [
        "The parcel was sent on Monday and will reach you before the weekend, as we promised.",
        "Das Paket wurde am Montag verschickt und wird Sie noch vor dem Wochenende erreichen.",
        "החבילה נשלחה ביום שני ותגיע אליכם לפני סוף השבוע, כפי שהבטחנו לכם בטלפון אתמול.",
        "Посылка была отправлена в понедельник и придёт к вам до выходных, как мы и обещали.",
    ]
    report = looked_at(pairs(*((text, text) for text in written)))
    assert {one.language: one.records for one in report.languages.counts} == {
        "en": 1,
        "de": 1,
        "he": 1,
        "ru": 1,
    }
    assert [one.script for one in report.scripts] == ["Latin", "Cyrillic", "Hebrew"]
    letters = sum(character.isalpha() for character in written[3])
    assert report.scripts[1].letters == 2 * letters


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("漢字", "Han"),
        ("ｗｉｄｅ", "Latin"),
        ("𝐛𝐨𝐥𝐝", "Latin"),
        ("ｶﾅ", "Katakana"),
        ("한국", "Hangul"),
    ],
)
def test_letters_are_of_their_script_whatever_their_shape(text: str, script: str) -> None:
    report = looked_at(pairs(("?", text)))
    assert [(one.script, one.letters) for one in report.scripts] == [(script, len(text))]


def test_the_sample_of_languages_is_bounded_and_drawn_from_everywhere() -> None:
    english = "The parcel was sent on Monday and will reach you before the weekend."
    german = "Das Paket wurde am Montag verschickt und wird Sie bald erreichen."
    given = [(str(n), english if n < 1000 else german) for n in range(2000)]
    languages = looked_at(pairs(*given)).languages
    assert languages.sampled == 256
    found = {one.language: one.records for one in languages.counts}
    assert found["en"] + found["de"] == 256
    assert 90 < found["de"] < 166


def test_above_the_index_s_limit_fewer_records_are_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(index, "MAX_ROWS", 10)
    report = looked_at(pairs(*clean(10), *clean(10)))
    assert (report.records, report.compared, report.duplicates.surplus) == (20, 10, 0)


def test_one_poisoned_record_among_thousands_hides_nothing() -> None:
    given = clean(2000)
    given[1500] = ("\0" * 10_000, "\u202e" + "a\u0301\u0316" * 9_000)
    given[1600:1640] = given[100:140]
    report = looked_at(pairs(*given))
    assert report.duplicates.surplus == 40
    assert told(report) == ["DUPLICATE_RECORDS"]
    assert report.answers.longest == 27_001


TEXTS = st.one_of(
    st.text(min_size=1),
    st.sampled_from(
        ["\0", "ok", "שלום", "e\u0301", "a" + "\u0301" * 40, "x" * 10_000, "\u0f73" * 9]
    ),
)
ANSWERS = TEXTS.filter(str.strip)


@given(st.lists(st.tuples(TEXTS, ANSWERS), min_size=1, max_size=40))
@settings(deadline=None)
def test_whatever_is_accepted_is_reported(given: list[tuple[str, str]]) -> None:
    records: list[dict[str, Any]] = pairs(*given)
    report = looked_at(records)
    assert report.records == report.compared == len(given)
    distinct = {tuple(unicodedata.normalize("NFC", t.strip()) for t in pair) for pair in given}
    assert report.duplicates.surplus == len(given) - len(distinct)
    assert DatasetReport.model_validate_json(report.model_dump_json()) == report


def test_the_report_is_small_whatever_the_data() -> None:
    faulty = [
        # 20 labels that JSON writes with six bytes a character.
        (f"{n // 4} what shall be said of this", "\x01" * 62 + f"{n % 20:02}")
        for n in range(4000)
    ]
    scripts = "".join(map(chr, range(0x80, 0x20000, 7)))
    texts = [scripts[n : n + 250].encode(errors="ignore").decode() for n in range(0, 9000, 250)]
    report = looked_at(pairs(*faulty, *faulty, *((text, "\x01" * 62 + "00") for text in texts)))
    assert len(report.labels) == 20
    assert len(report.duplicates.pairs) == 100
    assert len(report.contradictions.examples) == 20
    assert len(report.scripts) == 20
    assert len(report.model_dump_json().encode()) < 2**16
