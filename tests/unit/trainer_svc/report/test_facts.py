"""What a report says in tables, whichever fields a release's data report has."""

from __future__ import annotations

import pytest
from pydantic import Field

from tailorbird.personal_data.modes import Mode
from tests.unit.trainer_svc.report.reports import full_report, minimal_report
from trainer_svc.datasets.personal_data import PersonalDataReport
from trainer_svc.jobs.events import DataReport
from trainer_svc.judgement.model import Candidate, SafetyFinding
from trainer_svc.report.card import model_card
from trainer_svc.report.curves import length_chart, loss_chart, run_charts
from trainer_svc.report.facts import DataRow, data_rows, headlines, lineage_rows, run_rows
from trainer_svc.report.intervals import candidate_label, difference_forest, metric_names
from trainer_svc.report.model import Lengths, Report
from trainer_svc.report.page import report_page

FULL = full_report()


class LaterReport(DataReport):
    """As a later release may have it."""

    shortened: int = 0
    redacted: dict[str, int] = Field(default_factory=dict)
    redacted_lines: tuple[int, ...] = ()


def test_a_later_releases_counts_are_shown_as_well() -> None:
    later = LaterReport(
        **FULL.training_data.model_dump(),
        shortened=3,
        redacted={"EMAIL": 1200, "IBAN": 2},
        redacted_lines=tuple(range(1, 31)),
    )
    rows = data_rows(FULL.model_copy(update={"training_data": later}))
    assert [row.name for row in rows] == [
        "Records",
        "Kept",
        "Dropped: too long",
        "Tokens that are trained",
        "Tokens that are read only",
        "Dropped lines",
        "Shortened",
        "Redacted · EMAIL",
        "Redacted · IBAN",
        "Redacted lines",
    ]
    assert rows[0] == DataRow("Records", "1,812", "200")
    assert rows[7] == DataRow("Redacted · EMAIL", "1,200", "")
    assert rows[9].training.endswith("19, 20, …")
    assert rows[5].training.endswith("1330, 1402")


def test_what_the_safety_lists_find_in_training_data_is_told_without_a_judgement() -> None:
    assert not [row for row in data_rows(minimal_report()) if "Safety" in row.name]
    found = SafetyFinding(category="self_harm", where="training", count=2, lines=(3, 1334))
    screened = {"training_screened": 5000, "training_safety": (found,)}
    rows = data_rows(minimal_report().model_copy(update=screened))
    assert rows[-2:] == (
        DataRow("Safety lists · Records searched", "5,000", ""),
        DataRow("Safety lists · Self harm", "2: lines 3, 1334", ""),
    )


def test_what_was_found_of_personal_data_is_told_of_each_dataset() -> None:
    redacted = PersonalDataReport(
        mode=Mode.REDACT,
        records=1200,
        counts={"email": 1300, "us_ssn": 2},
        lines={"email": (1, 2), "us_ssn": (7,)},
    )
    counted = PersonalDataReport(mode=Mode.SCAN, records=0, counts={}, lines={})
    found = {"training_personal_data": redacted, "validation_personal_data": counted}
    report = FULL.model_copy(update=found)
    assert data_rows(report)[-4:] == (
        DataRow("Personal data", "redacted", "counted, left as it is"),
        DataRow("Personal data · Records", "1,200", "0"),
        DataRow("Personal data · Email", "1,300", ""),
        DataRow("Personal data · Us ssn", "2", ""),
    )
    assert data_rows(FULL)[-1].name == "Dropped lines"
    assert Report.model_validate_json(report.to_json()).training_personal_data == redacted
    assert "Personal data · Email" in report_page(report)
    assert "Personal data · Email | 1,300" in model_card(report, "0.1")


def test_nothing_dropped_is_not_told_but_nothing_kept_is() -> None:
    none = FULL.training_data.model_copy(update={"kept": 0, "dropped_too_long": 0})
    rows = {row.name: row for row in data_rows(FULL.model_copy(update={"training_data": none}))}
    assert rows["Kept"].training == "0"
    assert "Dropped: too long" not in rows


def test_the_figures_to_see_first() -> None:
    told = {each.name: (each.value, each.beside) for each in headlines(FULL)}
    assert told == {
        "Label accuracy": ("0.935", "base 0.405 · few-shot (8) 0.715 · routed now 0.880"),
        "Validation loss": ("0.346", "base 2.871"),
        "Records trained on": ("1,794", "18 dropped"),
        "Steps": ("240", "best after step 168"),
    }
    told = {each.name: (each.value, each.beside) for each in headlines(minimal_report())}
    assert told == {"Records trained on": ("1", ""), "Steps": ("1", "")}


def test_a_candidate_without_the_primary_metric_is_passed_over() -> None:
    assert FULL.judgement is not None
    tuned, *others = FULL.judgement.candidates
    bare = tuned.model_copy(update={"metrics": {}})
    judgement = FULL.judgement.model_copy(update={"candidates": (bare, *others)})
    assert "Label accuracy" not in {
        each.name for each in headlines(FULL.model_copy(update={"judgement": judgement}))
    }


def test_what_is_not_known_is_left_out() -> None:
    assert lineage_rows(minimal_report()) == {"Base model": "base"}
    assert run_rows(minimal_report()) == {
        "Steps": "1",
        "Training loss, last step": "2.500 nats per token",
    }
    assert run_rows(FULL)["Perplexity"] == "1.413"
    huge = FULL.evaluation.model_copy(update={"validation_loss": 1e6})
    assert "× 10" in run_rows(FULL.model_copy(update={"evaluation": huge}))["Perplexity"]


def test_the_primary_metric_is_the_first() -> None:
    assert FULL.judgement is not None
    judgement = FULL.judgement.model_copy(update={"primary_metric": "token_f1"})
    assert metric_names(judgement)[0] == "token_f1"
    assert metric_names(judgement)[1:] == ["exact_match", "label_accuracy", "macro_f1"]


def test_few_shot_tells_how_many_examples() -> None:
    assert FULL.judgement is not None
    assert candidate_label(FULL.judgement, Candidate.FEW_SHOT) == "Few-shot (8)"
    none = FULL.judgement.model_copy(update={"few_shot_examples": 0})
    assert candidate_label(none, Candidate.FEW_SHOT) == "Few-shot"


def test_a_difference_of_nothing_is_always_in_the_picture() -> None:
    assert FULL.judgement is not None
    forest = difference_forest(FULL.judgement)
    assert forest is not None
    assert forest.left == forest.zero
    assert all(row.low > forest.left for row in forest.rows)


def test_one_point_makes_no_curve() -> None:
    assert run_charts(minimal_report()) == ()
    one = FULL.model_copy(
        update={"training_curve": FULL.training_curve[:1], "validation_curve": ()}
    )
    assert loss_chart(one) is None


def test_a_curve_of_validation_alone_is_drawn() -> None:
    chart = loss_chart(FULL.model_copy(update={"training_curve": ()}))
    assert chart is not None
    assert [line.name for line in chart.lines] == ["Validation"]
    assert chart.summary.startswith("validation loss from 2.871 to")


def test_a_best_step_that_was_thinned_away_is_not_marked() -> None:
    chart = loss_chart(FULL.model_copy(update={"best_step": 169}))
    assert chart is not None
    assert chart.mark is None


@pytest.mark.parametrize("step", [0, 240])
def test_the_label_of_the_best_step_stays_in_the_picture(step: int) -> None:
    chart = loss_chart(FULL.model_copy(update={"best_step": step}))
    assert chart is not None
    assert chart.mark is not None
    assert chart.left + 70 <= chart.mark.label_x <= chart.right - 70
    assert chart.mark.label_y >= chart.top


def test_the_last_bar_says_how_far_it_goes() -> None:
    open_, closed = (
        length_chart(Lengths(width=10, counts=(3, 1), median=5, longest=longest))
        for longest in (999, 12)
    )
    assert open_.bars[-1].label == "10 to 999 tokens: 1"
    assert "up to 999" in open_.x_name
    assert (closed.bars[0].label, closed.x_name) == ("0 to 9 tokens: 3", "tokens")
    assert closed.bars[-1].label == "10 to 12 tokens: 1"
