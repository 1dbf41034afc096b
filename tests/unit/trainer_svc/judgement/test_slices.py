"""Slices by metadata: what is pooled, what lacks the field, and where the tuned model is worse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trainer_svc.judgement.model import Candidate, EvaluationSpec, Interval, SliceFigures
from trainer_svc.judgement.scoring import Scores
from trainer_svc.judgement.slices import SliceJudgement, judge_slices, slice_failures

TUNED, BASE, FEW_SHOT = Candidate.TUNED, Candidate.BASE, Candidate.FEW_SHOT


def judged(
    metadata: list[dict[str, Any]], tuned: list[float], **others: list[float]
) -> SliceJudgement:
    scores = {TUNED: Scores(np.asarray(tuned, dtype=np.float64))}
    for name, values in others.items():
        scores[Candidate(name)] = Scores(np.asarray(values, dtype=np.float64))
    return judge_slices(["lang"], metadata, scores, seed=0)


def part(value: float, low: float) -> SliceFigures:
    drop = Interval(value=value, low=low, high=1)
    return SliceFigures(field="f", value="v", records=20, scores={}, drop=drop)


def test_a_slice_that_the_tuned_model_fails_is_found() -> None:
    metadata = [{"lang": "de"}] * 20 + [{"lang": "en"}] * 40
    found = judged(
        metadata,
        [0.0] * 16 + [1.0] * 44,
        base=[0.0] * 60,
        few_shot=[1.0] * 20 + [0.0] * 40,
    )
    english, german = found.slices
    assert (german.value, german.records) == ("de", 20)
    assert german.scores == {TUNED: 0.2, BASE: 0, FEW_SHOT: 1}
    # Against the best other, which is the few-shot prompt.
    assert german.drop is not None
    assert german.drop.value == 0.8
    assert german.drop.low > 0.5
    assert english.drop is not None
    assert english.drop.high == -1
    (gap,) = found.gaps
    assert (gap.best, gap.worst, gap.gap, gap.unknown) == ("en", "de", 0.8, 0)
    assert found.notes == ()
    ((reason, message),) = slice_failures(EvaluationSpec(), found.slices)
    assert reason == "SLICE_WORSE"
    assert "20 records with metadata.lang = 'de'" in message
    assert "0.800 [" in message
    assert "at most 0.1" in message


def test_records_that_lack_the_field_are_told() -> None:
    metadata: list[dict[str, Any]] = [
        *[{"lang": "de"}] * 10,
        {},
        {"lang": None},
        {"lang": ["x"]},
        {"lang": "  "},
    ]
    found = judged(metadata, [1.0] * 14)
    assert [(s.value, s.records) for s in found.slices] == [("de", 10)]
    assert found.notes == ("4 of 14 judged records lack metadata.lang",)
    assert found.gaps == ()
    two = judged([*metadata, *[{"lang": "en"}] * 10], [1.0] * 24)
    assert two.gaps[0].unknown == 4


def test_values_are_texts_numbers_and_booleans() -> None:
    metadata = [{"lang": value} for value in ("a", " a ", 3, 2.5, True, False)]
    found = judged(metadata, [1.0] * 6)
    assert [(s.value, s.records) for s in found.slices] == [
        ("a", 2),
        ("2.5", 1),
        ("3", 1),
        ("false", 1),
        ("true", 1),
    ]


def test_the_rarest_of_many_values_are_pooled() -> None:
    common = [{"lang": f"l{i:02}"} for i in range(19)] * 2
    rare = [{"lang": f"r{i}"} for i in range(5)]
    found = judged([*common, *rare], [1.0] * 43)
    assert len(found.slices) == 20
    assert (found.slices[-1].value, found.slices[-1].records) == ("other", 5)
    assert "the 5 rarest are told as 'other'" in found.notes[0]
    assert len(judged([{"lang": str(i)} for i in range(20)], [1.0] * 20).slices) == 20


def test_a_value_that_is_called_other_joins_the_pool() -> None:
    many = [{"lang": "other"}] * 3 + [{"lang": f"l{i:02}"} for i in range(25)]
    found = judged(many, [1.0] * 28)
    assert sum(s.records for s in found.slices) == 28
    assert (found.slices[-1].value, found.slices[-1].records) == ("other", 10)


def test_a_few_records_allow_no_verdict() -> None:
    metadata = [{"lang": "de"}] * 9 + [{"lang": "en"}] * 10
    found = judged(metadata, [0.0] * 19, base=[1.0] * 19)
    english, german = found.slices
    assert german.drop is None
    assert english.drop is not None
    assert found.gaps == ()
    assert len(slice_failures(EvaluationSpec(), found.slices)) == 1


def test_without_another_candidate_there_is_no_drop() -> None:
    assert judged([{"lang": "de"}] * 10, [0.0] * 10).slices[0].drop is None


def test_macro_f1_of_a_slice_is_made_of_its_classes() -> None:
    classes = np.array([0] * 10 + [1] * 10), np.array([0] * 10 + [0] * 10)
    tuned = Scores((classes[0] == classes[1]).astype(np.float64), classes)
    metadata = [{"lang": "a"}] * 10 + [{"lang": "b"}] * 10
    found = judge_slices(["lang"], metadata, {TUNED: tuned}, seed=0)
    assert [s.scores[TUNED] for s in found.slices] == [1, 0]


@pytest.mark.parametrize(
    ("value", "low", "fails"), [(0.11, 0.01, True), (0.1, 0.05, False), (0.5, 0.0, False)]
)
def test_a_drop_counts_if_it_is_large_and_sure(value: float, low: float, fails: bool) -> None:
    assert bool(slice_failures(EvaluationSpec(), [part(value, low)])) is fails


def test_long_values_and_fields_are_cut() -> None:
    metadata = [{"\U0001f600" * 64: "\0" * 10_000 + "x"}]
    found = judge_slices(["\U0001f600" * 64], metadata, {TUNED: Scores(np.ones(1))}, seed=0)
    assert len(found.slices[0].model_dump_json()) < 400
