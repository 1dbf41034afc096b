"""The page is whole, says everything that the report has, and takes no text for more than text."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailorbird.manifest import MAX_REPORT_BYTES, Decision
from tests.unit.trainer_svc.report.hostile import TEXTS, with_text
from tests.unit.trainer_svc.report.outline import Element, outline
from tests.unit.trainer_svc.report.reports import full_report, largest_report, minimal_report
from trainer_svc.judgement.model import Candidate, Interval
from trainer_svc.report.card import model_card
from trainer_svc.report.page import report_page
from trainer_svc.report.printable import printable

FULL = full_report()
SECTIONS = [
    "evaluation",
    "slices",
    "counterfactuals",
    "retention",
    "safety",
    "samples",
    "training",
    "data",
    "lineage",
]
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def ids(page: Element) -> list[str]:
    return [section.attributes["id"] or "" for section in page.all("section")]


def shape(element: Element) -> tuple[object, ...]:
    """Tags and names of attributes; what is inside `i` stands only for an empty text."""
    return (
        element.tag,
        tuple(element.attributes),
        tuple(shape(child) for child in element.inside if child.tag != "i"),
    )


def test_a_full_report_has_every_section_and_the_decision_comes_first() -> None:
    page = outline(report_page(FULL))
    assert ids(page) == SECTIONS
    linked = [link.attributes["href"] for link in page.all("a")]
    assert linked == [f"#{section}" for section in SECTIONS]
    text = page.all("body")[0].everything()
    assert text.index("it has earned the traffic") < text.index("Evaluation")
    for said in (
        "ticket-triage-november",
        "tailorbird-demo-base",
        "2026-11-22 14:03 UTC",
        "label_accuracy is 0.530 [0.455, 0.605] above the base's",
        "200 held-out records",
        "the answers form 6 classes",
        "0.935",
        "0.905 to 0.962",
        "+0.055",
        "0.088 between the best, en, and the worst, ar",
        "he → she",
        "أين طلبي؟",
        "1,794",
        "17, 88, 203, 519",
        "CONTRADICTORY_ANSWERS 4 of 1,812 records (0.2%) ask one of 2 questions",
        "48213",
        "4be1" * 16,
    ):
        assert said in text, said


def test_every_candidate_has_its_figures_and_its_answers() -> None:
    assert FULL.judgement is not None
    page = outline(report_page(FULL))
    (metrics,) = (table for table in page.all("table") if "Every metric" in table.everything())
    heads = [head.everything() for head in metrics.all("thead")[0].all("th")]
    assert heads == ["Metric", "Tuned", "Base", "Few-shot (8)", "Routed now"]
    samples = page.all("section")[SECTIONS.index("samples")].all("dl")
    assert len(samples) == len(FULL.judgement.samples)
    for shown, sample in zip(samples, FULL.judgement.samples, strict=True):
        names = [name.everything().removesuffix(" ✓") for name in shown.all("dt")]
        assert names == ["Expected", *heads[1:]]
        answers = [answer.everything() for answer in shown.all("dd")]
        said = [sample.expected, *(sample.answers[candidate] for candidate in Candidate)]
        assert answers == [answer or "(nothing)" for answer in said]
        right = [name.everything().endswith("✓") for name in shown.all("dt")[1:]]
        assert right == [answer == sample.expected for answer in said[1:]]


def test_what_a_report_lacks_is_not_on_its_page() -> None:
    page = outline(report_page(minimal_report()))
    assert ids(page) == ["training", "data", "lineage"]
    assert page.all("svg") == []
    assert "Nothing was decided" in page.everything()
    assert "warned" not in page.everything()
    assert FULL.judgement is not None
    fewer = FULL.judgement.model_copy(
        update={
            "counterfactuals": None,
            "retention": None,
            "safety": (),
            "slices": (),
            "gaps": (),
            "samples": (),
            "comparisons": (),
        }
    )
    page = outline(report_page(FULL.model_copy(update={"judgement": fewer})))
    assert ids(page) == ["evaluation", "training", "data", "lineage"]
    assert len(page.all("section")[0].all("svg")) == len(fewer.candidates[0].metrics)


def test_no_other_metric_decides_where_the_decisive_one_could_not_be_measured() -> None:
    assert FULL.judgement is not None
    assert ">decides<" in report_page(FULL)
    lacking = FULL.judgement.model_copy(update={"primary_metric": "grader:lacking"})
    page = report_page(FULL.model_copy(update={"judgement": lacking}))
    assert ">decides<" not in page


def test_a_version_that_a_policy_promotes_is_told_as_such() -> None:
    always = minimal_report().model_copy(update={"promoted_always": True})
    said = outline(report_page(always)).everything()
    assert "Promoted by policy, not judged" in said
    assert "Nothing was decided" not in said
    decision = Decision(promote=False, reason="NOT_BETTER_THAN_BASE", message="see there")
    evaluation = FULL.evaluation.model_copy(update={"decision": decision})
    worse = FULL.model_copy(update={"evaluation": evaluation, "promoted_always": True})
    said = outline(report_page(worse)).everything()
    assert "Not shown to be better: the job's policy promotes it all the same" in said


@pytest.mark.parametrize(
    ("reason", "judged", "said"),
    [
        ("NOT_BETTER_THAN_FEW_SHOT", True, "Not shown to be better"),
        ("NO_HELD_OUT_DATA", False, "Not judged: it should not"),
        ("UNSAFE", False, "Not judged: it should not"),
        ("COUNTERFACTUAL_CHANGES", True, "Better, but held back for answers that change"),
        ("SLICE_WORSE", True, "Better, but held back for a part of the data"),
        ("RETENTION_LOSS", True, "Better, but held back for what general ability it lost"),
        ("FORGOTTEN", True, "Better, but held back for what it forgot"),
        ("UNSAFE", True, "Better, but held back for what the safety lists find"),
        ("TOO_FEW_RECORDS", True, "Too few records to tell: it should not"),
        ("ROUTED_NOT_JUDGED", True, "Held back, for want of the routed version's answers"),
        ("BASE_CHANGED", True, "Held back, because the routed version is of another base"),
    ],
)
def test_a_refusal_is_told_with_its_reason(reason: str, judged: bool, said: str) -> None:
    decision = Decision(promote=False, reason=reason, message="see there")
    evaluation = FULL.evaluation.model_copy(update={"decision": decision})
    report = FULL.model_copy(
        update={"evaluation": evaluation, "judgement": FULL.judgement if judged else None}
    )
    (verdict,) = (
        found
        for found in outline(report_page(report)).all("div")
        if found.attributes.get("id") == "decision"
    )
    assert verdict.attributes["class"] == "verdict no"
    text = verdict.everything()
    assert said in text
    assert reason in text
    assert "see there" in text


def test_a_slice_that_lost_by_the_whole_interval_is_marked() -> None:
    assert FULL.judgement is not None
    first, second, *rest = FULL.judgement.slices
    lost = first.model_copy(update={"drop": Interval(value=0.2, low=0.05, high=0.3)})
    perhaps = second.model_copy(update={"drop": Interval(value=0.2, low=-0.05, high=0.3)})
    judgement = FULL.judgement.model_copy(update={"slices": (lost, perhaps, *rest)})
    page = outline(report_page(FULL.model_copy(update={"judgement": judgement})))
    worse = [cell.everything() for cell in page.all("td") if "worse" in cell.attributes.values()]
    assert worse == ["▼ +0.200 +0.050 to +0.300"]


def test_pictures_and_tables_can_be_read_without_seeing_them() -> None:
    page = outline(report_page(FULL))
    every = [
        element.attributes["id"]
        for tag in ("section", "div", "title", "h2")
        for element in page.all(tag)
        if "id" in element.attributes
    ]
    assert len(every) == len(set(every))
    pictures = page.all("svg")
    assert len(pictures) == 4 + 1 + 4
    for picture in pictures:
        title = next(child for child in picture.inside if child.tag == "title")
        assert title.attributes["id"] == picture.attributes["aria-labelledby"]
        assert picture.attributes["role"] == "img"
        assert re.search(r"\d", title.text), "it says no figure"
    for table in page.all("table"):
        assert table.all("caption")
        assert all("scope" in head.attributes for head in table.all("th"))


def test_the_best_step_is_marked() -> None:
    (mark,) = (text for text in outline(report_page(FULL)).all("text") if "best:" in text.text)
    assert mark.text.endswith("step 168")


def test_nothing_is_fetched_and_no_script_runs() -> None:
    page = report_page(FULL)
    root = outline(page)
    assert not [tag for tag in ("script", "link", "img", "iframe", "object") if root.all(tag)]
    policy = root.all("meta")[1].attributes["content"] or ""
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    for forbidden in ("http", "@import", "url(", "src=", " on"):
        styles_and_tags = root.all("style")[0].text + " ".join(re.findall(r"<[^>]*>", page))
        assert forbidden not in styles_and_tags.replace('http-equiv="Content', ""), forbidden


def test_nothing_turns_the_direction_of_what_stands_beside_it() -> None:
    turning = [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]
    text = "a" + "".join(map(chr, turning)) + "b \u200eשלום"
    page = report_page(with_text(FULL, text))
    assert not {chr(code) for code in turning} & set(page)
    shown = "a" + "".join(f"[U+{code:04X}]" for code in turning) + "b \u200eשלום"
    assert page.count(shown) > 20
    card = model_card(with_text(FULL, text), "0.17.0")
    assert not {chr(code) for code in turning} & set(card)


@pytest.mark.parametrize("text", TEXTS)
def test_hostile_text_is_shown_as_it_is(text: str) -> None:
    page = outline(report_page(with_text(FULL, text)))
    shown = [element.everything() for tag in ("dd", "td", "p", "bdi") for element in page.all(tag)]
    assert sum(printable(text) in each for each in shown) > 20
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", page.everything())
    assert all(
        "dir" in element.attributes for element in page.all("dd") if element.text == text != ""
    )


@given(any_text)
@settings(max_examples=25, deadline=None)
def test_no_text_changes_what_the_page_consists_of(text: str) -> None:
    # Optional parts are there for any text but the empty one, and once for all.
    text = text or "x"
    harmless = outline(report_page(with_text(FULL, "x")))
    assert shape(outline(report_page(with_text(FULL, text)))) == shape(harmless)


def test_the_largest_report_is_still_one_to_mail() -> None:
    report = largest_report()
    assert len(report.to_json()) <= MAX_REPORT_BYTES
    page = report_page(report)
    outline(page)
    assert len(page.encode()) <= MAX_REPORT_BYTES
    assert len(report_page(FULL).encode()) < 100_000


@given(
    st.lists(st.tuples(st.floats(), st.floats(), st.floats()), max_size=5),
    st.integers(1, 10**9),
)
@settings(max_examples=60, deadline=None)
def test_no_figure_is_too_odd_to_be_drawn(
    points: list[tuple[float, float, float]], stride: int
) -> None:
    report = FULL.model_copy(
        update={
            "training_curve": tuple(
                (stride * (place + 1), loss, rate) for place, (loss, rate, _) in enumerate(points)
            ),
            "validation_curve": tuple(
                (stride * place, loss) for place, (_, _, loss) in enumerate(points)
            ),
            "throughput": tuple((place, speed) for place, (speed, _, _) in enumerate(points)),
            "best_step": 0,
        }
    )
    page = outline(report_page(report))
    for line in page.all("polyline"):
        assert re.fullmatch(r"(-?[\d.]+,-?[\d.]+ ?)+", line.attributes["points"] or "")
