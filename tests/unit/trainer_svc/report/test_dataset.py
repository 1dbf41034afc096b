"""A dataset's page says everything that its report has, and takes no text for more than text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailorbird.errors import FailedPrecondition
from tests.unit.trainer_svc.report.datasets import full_dataset
from tests.unit.trainer_svc.report.hostile import TEXTS
from tests.unit.trainer_svc.report.outline import Element, outline
from tests.unit.trainer_svc.report.test_page import ids, shape
from trainer_svc.datasets.dataset import Dataset
from trainer_svc.datasets.report.model import (
    Contradictions,
    Duplicates,
    NearDuplicates,
    ShortAnswers,
)
from trainer_svc.report.dataset import bars, dataset_page

SECTIONS = ["labels", "lengths", "languages", "lines", "personal", "facts"]
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def clean() -> Dataset:
    full = full_dataset()
    assert full.report is not None
    report = full.report.model_copy(
        update={
            "duplicates": Duplicates(surplus=0, pairs=()),
            "near_duplicates": NearDuplicates(compared=1794, found=0, pairs=()),
            "contradictions": Contradictions(questions=0, records=0, examples=()),
            "short_answers": ShortAnswers(records=0, lines=()),
            "labels": (),
        }
    )
    return full.model_copy(update={"report": report, "personal_data": None, "ignored_fields": ()})


def table(page: Element, caption: str) -> list[list[str]]:
    """Return the cells of the table with this caption."""
    (found,) = (
        each for each in page.all("table") if each.all("caption")[0].everything() == caption
    )
    rows = found.all("tbody")[0].all("tr")
    return [[cell.everything() for cell in row.inside] for row in rows]


def test_everything_stands_on_the_page() -> None:
    page = outline(dataset_page(full_dataset()))
    assert ids(page) == SECTIONS
    text = page.all("main")[0].everything()
    for said in (
        "5 things to look at",
        "DUPLICATE_RECORDS 130 of 1,794 records (7.2%) repeat",
        "NEAR_DUPLICATE_RECORDS 21 of 1,664",
        "CONTRADICTORY_ANSWERS 5 of 1,794",
        "LABEL_IMBALANCE the largest of 2 classes",
        "3 records with a very short answer: lines 17-19.",
        "what was done: substitute",
        "654,321 bytes",
        "4be1" * 16,
    ):
        assert said in text, said
    assert table(page, "Copies of an earlier record")[:2] == [["1,001", "1"], ["1,002", "2"]]
    assert len(table(page, "Copies of an earlier record")) == 20
    assert table(page, "Almost as an earlier record")[0] == ["501", "1", "91%"]
    assert table(page, "One question, several answers") == [["3", "7, 9, 48213"]]
    assert table(page, "Found in 40 records; what was done: substitute") == [
        ["returns", "44", "4, 5"]
    ]
    labels = table(page, "The classes that the answers form")
    assert [row[:2] for row in labels] == [["returns", "1,700"], ["תודה", "94"]]
    assert [row[:2] for row in table(page, "Languages of 256 records looked at")] == [
        ["en", "200"],
        ["und", "56"],
    ]
    assert table(page, "Letters by script")[0][:2] == ["Latin", "9,000"]
    assert [row[:2] for row in table(page, "Prompts: median 48, longest 1,048,577")] == [
        ["16 to 31", "900"],
        ["32 to 63", "894"],
        ["1,048,576 or more", "1"],
    ]


def test_a_clean_dataset_has_nothing_to_look_at() -> None:
    page = outline(dataset_page(clean()))
    assert ids(page) == [each for each in SECTIONS if each not in {"labels", "lines"}]
    text = page.all("main")[0].everything()
    assert "✓ Nothing stands out" in text
    assert "None was looked for." in text
    assert "Keys that nothing reads" not in text


def test_of_each_list_of_lines_the_page_has_the_first_twenty() -> None:
    full = full_dataset()
    report, personal = full.report, full.personal_data
    assert report is not None
    assert personal is not None
    near, contradictions = report.near_duplicates, report.contradictions
    longer = report.model_copy(
        update={
            "near_duplicates": near.model_copy(update={"pairs": near.pairs * 9}),
            "contradictions": contradictions.model_copy(
                update={"examples": contradictions.examples * 90}
            ),
        }
    )
    lines = {kind: tuple(range(1, 90)) for kind in personal.counts}
    page = outline(
        dataset_page(
            full.model_copy(
                update={
                    "report": longer,
                    "personal_data": personal.model_copy(update={"lines": lines}),
                }
            )
        )
    )
    for caption in (
        "Copies of an earlier record",
        "Almost as an earlier record",
        "One question, several answers",
    ):
        assert len(table(page, caption)) == 20
    ((_, _, told),) = table(page, "Found in 40 records; what was done: substitute")
    assert told.split(", ") == [str(line) for line in range(1, 21)]


def test_personal_data_may_have_been_looked_for_and_not_found() -> None:
    full = full_dataset()
    assert full.personal_data is not None
    none = full.personal_data.model_copy(update={"records": 0, "counts": {}, "lines": {}})
    page = dataset_page(full.model_copy(update={"personal_data": none}))
    assert "None was found." in page


def test_the_largest_bar_is_whole_and_shares_are_of_all() -> None:
    assert [(bar.share, bar.width) for bar in bars([("a", 75), ("b", 25), ("c", 0)])] == [
        ("75.0%", 100.0),
        ("25.0%", 33.3),
        ("0.0%", 0.0),
    ]
    assert bars([]) == []
    assert bars([("a", 0)])[0].width == 0


def test_a_dataset_without_a_report_has_no_page() -> None:
    with pytest.raises(FailedPrecondition, match="upload the data again") as caught:
        dataset_page(full_dataset().model_copy(update={"report": None}))
    assert caught.value.reason == "REPORT_MISSING"


@pytest.mark.parametrize("text", TEXTS)
def test_text_that_wants_out_stays_text(text: str) -> None:
    harmless = outline(dataset_page(full_dataset("x")))
    assert shape(outline(dataset_page(full_dataset(text)))) == shape(harmless)


@settings(max_examples=40, deadline=None)
@given(any_text)
def test_any_text_stays_text(text: str) -> None:
    harmless = outline(dataset_page(full_dataset("x")))
    assert shape(outline(dataset_page(full_dataset(text)))) == shape(harmless)


def test_a_page_forbids_what_it_does_not_have() -> None:
    page = outline(dataset_page(full_dataset()))
    (policy,) = (
        each.attributes["content"]
        for each in page.all("meta")
        if each.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert not page.all("script")
    assert not page.all("link")
