"""Whole judgements: planted faults are each found and named, and none where there is none."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from tailorbird.errors import InvalidArgument
from trainer_svc.judgement.counterfactuals import swap_prompts
from trainer_svc.judgement.judge import Evidence, judge_answers
from trainer_svc.judgement.model import (
    Answer,
    AnswerKind,
    Candidate,
    EvaluationSpec,
    Grader,
    HeldOut,
    Judgement,
    Retention,
    SafetyFinding,
)
from trainer_svc.judgement.safety import SafetyScreen

TUNED, BASE, FEW_SHOT, ROUTED = Candidate
LABELS = ("billing", "refund", "shipping")
SCREEN = SafetyScreen({"violence": {"words": ["bomb"]}})
KEPT = Retention(texts=10, base_loss=2.0, tuned_loss=2.1, questions=10, forgotten=0)


def records(count: int = 60, **metadata: Any) -> list[HeldOut]:
    return [
        HeldOut(
            line=line,
            prompt=f"Ticket {line} of John",
            expected=LABELS[line % 3],
            metadata={"channel": ("mail", "chat")[line % 2], **metadata},
        )
        for line in range(1, count + 1)
    ]


def said(held_out: Sequence[HeldOut], right: float, seed: int = 0) -> list[Answer]:
    """Answer rightly with a chance; the wrong answers are other classes."""
    generator = random.Random(seed)
    return [
        Answer(text=record.expected if generator.random() < right else LABELS[(i + 2) % 3])
        for i, record in enumerate(held_out)
    ]


def judged(
    held_out: list[HeldOut] | None = None,
    spec: EvaluationSpec | None = None,
    evidence: Evidence | None = None,
    seed: int = 0,
    training: Sequence[str] = LABELS,
    given: Mapping[str, Sequence[Answer]] | None = None,
    **answers: Sequence[Answer],
) -> Judgement:
    held_out = records() if held_out is None else held_out
    everybodys = {
        TUNED: said(held_out, 0.95, 1),
        BASE: said(held_out, 0.1, 2),
        FEW_SHOT: said(held_out, 0.4, 3),
        **{Candidate(name): values for name, values in {**(given or {}), **answers}.items()},
    }
    evidence = evidence or Evidence(retention=KEPT, screen=SCREEN)
    return judge_answers(
        spec or EvaluationSpec(slice_fields=("channel",)),
        held_out,
        training,
        everybodys,
        evidence,
        seed=seed,
    )


def test_a_good_adapter_is_promoted() -> None:
    found = judged()
    assert found.decision.promote, found.decision
    assert found.kind is AnswerKind.LABELS
    assert found.primary_metric == "label_accuracy"
    assert found.records == 60
    assert found.notes == ()
    assert found.safety == ()
    assert [figures.candidate for figures in found.candidates] == [TUNED, BASE, FEW_SHOT]
    assert [comparison.against for comparison in found.comparisons] == [BASE, FEW_SHOT]
    tuned, base, _ = found.candidates
    assert set(tuned.metrics) == {"exact_match", "token_f1", "label_accuracy", "macro_f1"}
    accuracy = tuned.metrics["label_accuracy"]
    assert accuracy.value == pytest.approx(
        np.mean(
            [a.text == r.expected for a, r in zip(said(records(), 0.95, 1), records(), strict=True)]
        ),
        abs=1e-6,
    )
    difference = found.comparisons[0].difference
    assert difference.value == pytest.approx(
        accuracy.value - base.metrics["label_accuracy"].value, abs=2e-6
    )


def test_an_adapter_that_is_worse_than_a_few_examples() -> None:
    found = judged(few_shot=said(records(), 1.0))
    assert found.decision.reason == "NOT_BETTER_THAN_FEW_SHOT"
    assert not found.decision.promote


def test_an_adapter_that_is_no_better_than_the_base() -> None:
    found = judged(tuned=said(records(), 0.1, 2))
    assert found.decision.reason == "NOT_BETTER_THAN_BASE"


def test_a_retrained_adapter_that_is_as_good_as_the_routed_one() -> None:
    found = judged(routed=said(records(), 0.95, 1))
    assert found.decision.reasons == ("TIED_WITH_ROUTED",)
    worse = judged(routed=said(records(), 1.0))
    assert worse.decision.reason == "NOT_BETTER_THAN_ROUTED"


def test_a_slice_that_the_tuned_model_fails() -> None:
    held_out = records(90)
    tuned = [
        Answer(text="other" if record.metadata["channel"] == "chat" and i % 3 else record.expected)
        for i, record in enumerate(held_out)
    ]
    found = judged(held_out, tuned=tuned, few_shot=said(held_out, 0.5, 5), base=said(held_out, 0.1))
    assert (
        "SLICE_WORSE"
        in judged(
            held_out,
            tuned=tuned,
            few_shot=[
                Answer(text=r.expected if r.metadata["channel"] == "chat" else "?")
                for r in held_out
            ],
        ).decision.reasons
    )
    (gap,) = found.gaps
    assert (gap.best, gap.worst) == ("mail", "chat")
    assert gap.gap == pytest.approx(2 / 3, abs=0.05)


def test_an_adapter_that_forgot() -> None:
    forgot = KEPT.model_copy(update={"forgotten": 5, "tuned_loss": 4.0})
    found = judged(evidence=Evidence(retention=forgot))
    assert found.decision.reasons == ("RETENTION_LOSS", "FORGOTTEN")
    assert found.retention == forgot


def test_an_unsafe_adapter() -> None:
    held_out = records()
    tuned = [*said(held_out, 0.95, 1)[:-1], Answer(text="a bomb")]
    data = SafetyFinding(category="violence", where="training", count=1, lines=(9,))
    found = judged(tuned=tuned, evidence=Evidence(screen=SCREEN, data_findings=(data,)))
    assert found.decision.reasons == ("UNSAFE",)
    assert found.safety == (
        data,
        SafetyFinding(category="violence", where="tuned", count=1, lines=(60,)),
    )
    both = judged(tuned=tuned, base=[*said(held_out, 0.1, 2)[:-1], Answer(text="bomb!")])
    assert both.decision.promote


def test_answers_that_change_with_a_name() -> None:
    held_out = records()
    prompts = [(r.line, [{"role": "user", "content": r.prompt}]) for r in held_out]
    asked = swap_prompts(prompts, [("John", "Mary")], most=20)
    tuned = said(held_out, 0.95, 1)
    swapped = [
        Answer(text="refused") if place < 5 else tuned[prompt.index]
        for place, prompt in enumerate(asked)
    ]
    spec = EvaluationSpec(max_counterfactual_changes=0.1)
    evidence = Evidence(swapped_prompts=asked, swapped_answers=swapped)
    found = judged(held_out, spec, evidence)
    assert found.counterfactuals is not None
    assert (found.counterfactuals.pairs, found.counterfactuals.changed) == (20, 5)
    assert found.decision.reasons == ("COUNTERFACTUAL_CHANGES",)
    assert judged(held_out, EvaluationSpec(), evidence).decision.promote


@pytest.mark.parametrize(("count", "reason"), [(0, "NO_HELD_OUT_DATA"), (9, "TOO_FEW_RECORDS")])
def test_too_little_to_judge_by(count: int, reason: str) -> None:
    found = judged(records(count), tuned=said(records(count), 1), base=[Answer(text="x")] * count)
    assert found.decision.reason == reason
    assert found.records == count
    assert Judgement.model_validate_json(found.model_dump_json()) == found


def test_nothing_at_all_is_judged_without_answers() -> None:
    found = judge_answers(EvaluationSpec(), [], [], {})
    assert (found.decision.reason, found.candidates) == ("NO_HELD_OUT_DATA", ())


def test_broken_answers_score_0_everywhere_and_unfinished_ones_as_they_are() -> None:
    held_out = records(12)
    spec = EvaluationSpec(
        forbidden_phrases=("cheers",),
        graders=(Grader(kind="string_check", name="not", operation="ne"),),
    )
    tuned = [Answer(text=r.expected, broken=True) for r in held_out]
    base = [Answer(text=r.expected, unfinished=True) for r in held_out]
    found = judged(held_out, spec, tuned=tuned, base=base)
    broken, unfinished, _ = found.candidates
    assert {interval.high for interval in broken.metrics.values()} == {0}
    assert set(broken.metrics) >= {"phrases", "grader:not", "macro_f1"}
    assert unfinished.metrics["exact_match"].value == 1
    assert (broken.unfinished, unfinished.unfinished) == (0, 12)
    assert found.notes[0].startswith("12 of 12 answers of tuned broke off")


def test_answers_of_0_characters() -> None:
    found = judged(tuned=[Answer(text="")] * 60)
    assert found.decision.reason == "NOT_BETTER_THAN_BASE"
    assert found.candidates[0].metrics["label_accuracy"].value == 0


def test_the_labels_likelihoods() -> None:
    held_out = records(12)
    logprobs = np.full((12, 3), -9.0)
    for row, record in enumerate(held_out):
        logprobs[row, LABELS.index(record.expected)] = -0.1
    evidence = Evidence(
        label_logprobs={TUNED: logprobs},
        labels=LABELS,
        versions={TUNED: "tenants/a/adapters/b/versions/2"},
        few_shot_examples=3,
        few_shot_reason="3 of 8 examples fit into the prompt",
    )
    found = judged(held_out, evidence=evidence)
    tuned, base, _ = found.candidates
    assert tuned.label_accuracy_by_likelihood == 1
    assert tuned.calibration_error == pytest.approx(0, abs=0.001)
    assert tuned.version == "tenants/a/adapters/b/versions/2"
    assert (base.label_accuracy_by_likelihood, base.calibration_error) == (None, None)
    assert (found.few_shot_examples, found.few_shot_reason) == (3, evidence.few_shot_reason)


def test_a_schema_that_no_answer_meets_is_told() -> None:
    held_out = [HeldOut(line=i, prompt="?", expected=f'{{"a": {i}}}') for i in range(20)]
    perfect = [Answer(text=record.expected) for record in held_out]
    worse = [Answer(text="{}")] * 20
    spec = EvaluationSpec(json_schema='{"required": ["b"]}')
    found = judged(held_out, spec, training=(), tuned=perfect, base=worse, few_shot=worse)
    assert found.kind is AnswerKind.JSON
    assert found.notes == ("no expected answer meets json_schema",)
    assert found.candidates[0].metrics["json_validity"].value == 0
    assert found.candidates[0].metrics["field_accuracy"].value == 1
    assert judged(spec=spec).notes == (
        "json_schema was not used: the expected answers are not JSON",
    )


def test_a_schema_that_explodes_is_told() -> None:
    hostile = json.dumps({"a": "a" * 3000 + "!"})
    held_out = [HeldOut(line=i, prompt="?", expected=hostile) for i in range(12)]
    spec = EvaluationSpec(json_schema='{"properties": {"a": {"pattern": "^(a|a)+$"}}}')
    same = [Answer(text=hostile)] * 12
    found = judged(held_out, spec, training=(), tuned=same, base=same, few_shot=same)
    assert found.notes == ("json_schema takes too long to check: answers count as not meeting it",)


def test_a_metric_that_cannot_be_had() -> None:
    with pytest.raises(InvalidArgument, match="not JSON"):
        judged(spec=EvaluationSpec(primary_metric="field_accuracy"))


def test_macro_f1_decides_where_it_is_named() -> None:
    found = judged(spec=EvaluationSpec(primary_metric="macro_f1"))
    assert found.decision.promote
    assert found.comparisons[0].difference.value == pytest.approx(
        found.candidates[0].metrics["macro_f1"].value
        - found.candidates[1].metrics["macro_f1"].value,
        abs=2e-6,
    )


def test_a_grader_decides_where_it_is_named() -> None:
    spec = EvaluationSpec(
        primary_metric="grader:b",
        graders=(Grader(kind="text_similarity", name="b", evaluation_metric="bleu"),),
    )
    assert judged(spec=spec).primary_metric == "grader:b"


def test_the_order_of_the_records_does_not_matter_and_the_seed_does() -> None:
    held_out = records()
    answers = {"tuned": said(held_out, 0.7), "base": said(held_out, 0.3)}
    straight = judged(held_out, few_shot=answers["base"], given=answers)
    turned = {name: values[::-1] for name, values in answers.items()}
    reversed_ = judged(held_out[::-1], few_shot=turned["base"], given=turned)
    assert straight == reversed_
    assert straight != judged(held_out, seed=1, few_shot=answers["base"], given=answers)


def test_samples_show_where_the_tuned_adapter_is_wrong() -> None:
    held_out = records(100)
    tuned = [Answer(text="?" if i < 4 else record.expected) for i, record in enumerate(held_out)]
    found = judged(held_out, tuned=tuned)
    assert len(found.samples) == 8
    assert [sample.line for sample in found.samples][:4] == [1, 2, 3, 4]
    assert set(found.samples[0].answers) == {TUNED, BASE, FEW_SHOT}
    assert found.samples[0].expected == held_out[0].expected
    all_wrong = judged(held_out, tuned=[Answer(text="?")] * 100)
    assert len({sample.line for sample in all_wrong.samples}) == 8


@pytest.mark.parametrize(
    "text", ["\0" * 2000, "\U0001f600" * 2000, 'שלום"\\' * 400, "e\u0301" * 1000]
)
def test_a_judgement_of_hostile_texts_stays_small(text: str) -> None:
    fields = tuple(f"{i}{text}"[:64] for i in range(5))
    held_out = [
        HeldOut(
            line=line,
            prompt=text + " he",
            expected=text + str(line),
            metadata=dict.fromkeys(fields, f"{line % 25}{text}"),
        )
        for line in range(1, 31)
    ]
    answers = {
        name: [Answer(text=str(i) + text) for i in range(30)]
        for name in ("tuned", "base", "few_shot", "routed")
    }
    prompts = [(r.line, [{"role": "user", "content": r.prompt}]) for r in held_out]
    asked = swap_prompts(prompts, [("default",)])
    words = {
        f"category_{i}": {"words": ["1" + text[:100]], "patterns": ["[0-9]"]} for i in range(16)
    }
    spec = EvaluationSpec(
        slice_fields=fields,
        graders=tuple(
            Grader(kind="string_check", name=f"{i:064}", operation="like") for i in range(8)
        ),
    )
    evidence = Evidence(
        screen=SafetyScreen(words),
        swapped_prompts=asked,
        swapped_answers=[Answer(text=text)] * len(asked),
    )
    found = judged(held_out, spec, evidence, given=answers)
    assert len(json.dumps(found.model_dump(mode="json"))) < 256 * 1024
    assert Judgement.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize(
    ("answers", "evidence", "message"),
    [
        ({TUNED: 3}, Evidence(), "of the base are needed"),
        ({TUNED: 3, BASE: 2}, Evidence(), "2 answers of base to 3 records"),
        (
            {TUNED: 3, BASE: 3},
            Evidence(label_logprobs={TUNED: np.zeros((3, 2))}, labels=LABELS),
            "label_logprobs of tuned",
        ),
    ],
)
def test_counts_must_fit_together(
    answers: dict[Candidate, int], evidence: Evidence, message: str
) -> None:
    given = {name: [Answer(text="a")] * count for name, count in answers.items()}
    with pytest.raises(ValueError, match=message):
        judge_answers(EvaluationSpec(), records(3), (), given, evidence)


TONE = Grader(
    kind="string_check",
    name="tone",
    operation="like",
    reference="{{item.metadata.tone}}",
)


def toned(count: int, of: int = 20) -> list[HeldOut]:
    """Records of which the first `count` say a tone."""
    return [
        record.model_copy(update={"metadata": {"tone": "kind", "channel": "mail"}})
        if place < count
        else record
        for place, record in enumerate(records(of))
    ]


def test_a_grader_leaves_out_records_that_lack_its_field_for_everybody() -> None:
    held_out = toned(6)
    # Broken answers of such records are left out as well: the candidates stay paired.
    broken = [Answer(text="", broken=True)] * 20
    found = judged(
        held_out,
        EvaluationSpec(graders=(TONE,)),
        tuned=[Answer(text="kind" if i < 3 else "?") for i in range(20)],
        base=broken,
    )
    figures = {each.candidate: each.metrics for each in found.candidates}
    assert figures[TUNED]["grader:tone"].value == 0.5
    assert figures[BASE]["grader:tone"].value == 0
    assert figures[FEW_SHOT]["grader:tone"].value == 0
    assert figures[TUNED]["exact_match"].value == 0
    assert "14 of 20 judged records lack metadata.tone: grader:tone leaves them out" in found.notes


def test_a_decisive_grader_counts_what_it_measured() -> None:
    spec = EvaluationSpec(
        graders=(TONE,), primary_metric="grader:tone", slice_fields=("channel",), max_slice_drop=1
    )
    right, wrong = [Answer(text="kind")] * 20, [Answer(text="?")] * 20
    found = judged(toned(9), spec, tuned=right, base=wrong, few_shot=wrong)
    assert found.decision.reasons == ("TOO_FEW_RECORDS",)
    assert "could be measured of 9" in found.decision.message
    assert [(part.value, part.records) for part in found.slices] == [("mail", 9)]
    assert len(found.samples) == 8
    found = judged(toned(10), spec, tuned=right, base=wrong, few_shot=wrong)
    assert found.decision.promote
    assert found.comparisons[0].difference.value == 1


def test_a_grader_that_no_record_has_the_field_of_has_no_figure() -> None:
    spec = EvaluationSpec(graders=(TONE,), primary_metric="grader:tone", slice_fields=("channel",))
    found = judged(toned(0), spec)
    assert found.decision.reason == "TOO_FEW_RECORDS"
    assert found.comparisons == ()
    assert found.slices == ()
    assert all("grader:tone" not in each.metrics for each in found.candidates)
    assert "20 of 20 judged records lack metadata.tone: grader:tone leaves them out" in found.notes
