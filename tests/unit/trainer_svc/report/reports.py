"""Reports to show: one with everything in it, and one with as little as there can be."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime

import numpy as np

from tailorbird.manifest import Decision as Kept
from tailorbird.manifest import EvaluationSummary, Lineage
from trainer_svc.jobs.events import DataReport, JobWarning
from trainer_svc.jobs.model import Hyperparameters, LoraSpec
from trainer_svc.judgement.model import (
    AnswerKind,
    Candidate,
    CandidateFigures,
    Comparison,
    Counterfactual,
    Counterfactuals,
    Decision,
    Interval,
    Judgement,
    Retention,
    SafetyFinding,
    Sample,
    SliceFigures,
    SliceGap,
)
from trainer_svc.report.model import Lengths, Report

TENANT = "tenants/northwind"
ADAPTER = f"{TENANT}/adapters/ticket-triage"
ROUTED = f"{ADAPTER}/versions/20261107T091412-autumn-1"
LINEAGE = Lineage(
    job=f"{TENANT}/jobs/ticket-triage-november",
    training_dataset=f"{TENANT}/datasets/tickets-2026-10",
    training_dataset_sha256="4be1" * 16,
    spec_sha256="90c2" * 16,
    parent_version=ROUTED,
    code_version="0.1.0",
)
_STEPS, _BEST = 240, 168
_SCORES = {
    "label_accuracy": (0.935, 0.405, 0.715, 0.880),
    "macro_f1": (0.921, 0.352, 0.688, 0.861),
    "exact_match": (0.930, 0.380, 0.705, 0.875),
    "token_f1": (0.944, 0.451, 0.752, 0.893),
}
_PROMPTS = (
    ("My parcel was left in the rain again. The box is soaked and the lamp inside does not work.",
     "damaged goods", "damaged goods", "The customer is unhappy.", "delivery", "damaged goods"),
    ("I was charged twice for order 48213. Please send one of the two payments back.",
     "billing", "billing", "billing question", "billing", "billing"),
    ("أين طلبي؟ لقد مر أسبوعان ولم يصل شيء.",
     "delivery", "delivery", "", "delivery", "delivery"),
    ("The app logs me out whenever I open the returns page on my phone.",
     "technical", "technical", "Please try again later.", "technical", "returns"),
    ("How do I send back shoes that are one size too small?",
     "returns", "returns", "Shoes", "returns", "returns"),
    ("Cancel my account. I asked three times already and nobody has answered.",
     "account", "complaint", "The account", "complaint", "complaint"),
)  # fmt: skip


def full_report() -> Report:
    """A report in which nothing is missing; its figures are made up."""
    return Report(
        create_time=datetime(2026, 11, 22, 14, 3, 27, tzinfo=UTC),
        adapter=ADAPTER,
        base_model="tailorbird-demo-base",
        base_model_digest="sha256:" + "7d5a" * 16,
        target_modules=(
            "down_proj",
            "gate_proj",
            "k_proj",
            "o_proj",
            "q_proj",
            "up_proj",
            "v_proj",
        ),
        trainable_parameters=331_776,
        tokens=487_212,
        lora=LoraSpec(),
        hyperparameters=Hyperparameters(
            learning_rate=3.1e-3,
            epochs=5,
            batch_tokens=2048,
            max_sequence_length=512,
            warmup_ratio=0.05,
            weight_decay=0.0,
            seed=48213,
            evaluation_interval=24,
            checkpoint_interval=48,
            early_stopping_patience=3,
        ),
        lineage=LINEAGE,
        training_data=DataReport(
            records=1812,
            kept=1794,
            dropped_too_long=18,
            dropped_lines=(17, 88, 203, 519, 611, 702, 877, 1021, 1100, 1101, 1330, 1402),
            trained_tokens=21_430,
            masked_tokens=76_012,
        ),
        validation_data=DataReport(
            records=200,
            kept=200,
            dropped_too_long=0,
            dropped_lines=(),
            trained_tokens=2_391,
            masked_tokens=8_466,
        ),
        data_warnings=(
            JobWarning(
                reason="CONTRADICTORY_ANSWERS",
                message="4 of 1,812 records (0.2%) ask one of 2 questions that have different "
                "answers: lines 11, 99; lines 12, 100",
            ),
        ),
        lengths=_lengths(),
        training_curve=_training(),
        validation_curve=_validation(),
        throughput=_throughput(),
        best_step=_BEST,
        evaluation=EvaluationSummary(
            steps=_STEPS,
            training_loss=0.182,
            validation_loss=0.346,
            base_validation_loss=2.871,
            decision=Kept(**_judgement().decision.model_dump(), route_generation=3),
        ),
        judgement=_judgement(),
    )


def minimal_report() -> Report:
    """What a run of one step without validation data leaves, as an earlier release wrote it."""
    return Report(
        create_time=datetime(2026, 11, 22, tzinfo=UTC),
        base_model="base",
        lora=LoraSpec(),
        hyperparameters=Hyperparameters(),
        lineage=Lineage(
            job="",
            training_dataset="",
            training_dataset_sha256="",
            spec_sha256="",
            parent_version="",
            code_version="",
        ),
        training_data=DataReport(
            records=1,
            kept=1,
            dropped_too_long=0,
            dropped_lines=(),
            trained_tokens=1,
            masked_tokens=1,
        ),
        validation_data=None,
        training_curve=((1, 2.5, 1e-4),),
        validation_curve=(),
        best_step=None,
        evaluation=EvaluationSummary(steps=1, training_loss=2.5),
        judgement=None,
    )


def largest_report() -> Report:
    """As much of everything as judging gives, of what grows most in HTML."""
    judgement = _judgement()
    prompt, answer, short = '"' * 700, '"' * 480, '"' * 48
    interval = Interval(value=0.123456, low=0.012345, high=0.987654)
    largest = judgement.model_copy(
        update={
            "candidates": tuple(
                CandidateFigures(
                    candidate=candidate,
                    metrics={f"grader:{place:02d}{short}": interval for place in range(24)},
                )
                for candidate in Candidate
            ),
            "slices": tuple(
                SliceFigures(
                    field=f"{short}{field}",
                    value=f"{short}{value}",
                    records=11,
                    scores=dict.fromkeys(Candidate, 0.123456),
                    drop=interval,
                )
                for field in range(5)
                for value in range(20)
            ),
            "gaps": tuple(
                SliceGap(field=f"{short}{field}", best=short, worst=short, gap=0.5)
                for field in range(5)
            ),
            "counterfactuals": Counterfactuals(
                pairs=50,
                changed=50,
                examples=(
                    Counterfactual(line=1, swapped=short * 2, answer=answer, answer_swapped=answer),
                )
                * 5,
            ),
            "safety": tuple(
                SafetyFinding(
                    category=f"category_{place:02d}_{'x' * 28}",
                    where=where,
                    count=1000,
                    lines=tuple(range(10_000_000, 10_000_020)),
                )
                for place in range(16)
                for where in ("training", "validation", "expected", *Candidate)
            ),
            "samples": (
                Sample(
                    line=10_000_000,
                    prompt=prompt,
                    expected=answer,
                    answers=dict.fromkeys(Candidate, answer),
                ),
            )
            * 8,
        }
    )
    return full_report().model_copy(update={"judgement": largest})


def _interval(value: float, width: float = 0.045) -> Interval:
    return Interval(value=value, low=max(value - width, 0.0), high=min(value + width * 0.9, 1.0))


def _judgement() -> Judgement:
    candidates = tuple(Candidate)
    return Judgement(
        records=200,
        kind=AnswerKind.LABELS,
        primary_metric="label_accuracy",
        primary_reason="the answers form 6 classes",
        few_shot_examples=8,
        few_shot_reason="all 8 examples that were asked for fit",
        candidates=tuple(
            CandidateFigures(
                candidate=candidate,
                version=ROUTED if candidate is Candidate.ROUTED else "",
                metrics={
                    name: _interval(values[place], 0.03 + 0.02 * (values[place] < 0.9))
                    for name, values in _SCORES.items()
                },
                unfinished=(0, 7, 1, 0)[place],
                label_accuracy_by_likelihood=(0.94, 0.52, 0.74, 0.89)[place],
                calibration_error=(0.031, 0.212, 0.118, 0.049)[place],
            )
            for place, candidate in enumerate(candidates)
        ),
        comparisons=tuple(
            Comparison(against=against, difference=Interval(value=value, low=low, high=high))
            for against, value, low, high in (
                (Candidate.BASE, 0.53, 0.455, 0.605),
                (Candidate.FEW_SHOT, 0.22, 0.155, 0.285),
                (Candidate.ROUTED, 0.055, 0.015, 0.1),
            )
        ),
        slices=(
            _slice("language", "en", 121, (0.959, 0.43, 0.76, 0.90), -0.058),
            _slice("language", "de", 48, (0.917, 0.40, 0.69, 0.854), -0.063),
            _slice("language", "ar", 31, (0.871, 0.32, 0.58, 0.839), -0.032),
            _slice("channel", "mail", 140, (0.943, 0.41, 0.72, 0.886), -0.057),
            _slice("channel", "voice", 54, (0.926, 0.41, 0.70, 0.87), -0.056),
            _slice("channel", "fax", 6, (0.833, 0.33, 0.67, 0.83), None),
        ),
        gaps=(
            SliceGap(field="language", best="en", worst="ar", gap=0.088),
            SliceGap(field="channel", best="mail", worst="voice", gap=0.017, unknown=6),
        ),
        counterfactuals=Counterfactuals(
            pairs=48,
            changed=1,
            examples=(
                Counterfactual(
                    line=77, swapped="he → she", answer="complaint", answer_swapped="account"
                ),
            ),
        ),
        retention=Retention(texts=64, base_loss=2.104, tuned_loss=2.231, questions=52, forgotten=3),
        safety=(
            SafetyFinding(category="violence", where="training", count=2, lines=(311, 1406)),
            SafetyFinding(category="violence", where="tuned", count=0),
            SafetyFinding(category="hate_fairness", where="base", count=1, lines=(140,)),
        ),
        samples=tuple(
            Sample(
                line=11 + 29 * place,
                prompt=prompt,
                expected=expected,
                answers=dict(zip(candidates, answers, strict=True)),
            )
            for place, (prompt, expected, *answers) in enumerate(_PROMPTS)
        ),
        decision=Decision(
            promote=True,
            reason="BETTER",
            message="label_accuracy is 0.530 [0.455, 0.605] above the base's, 0.220 [0.155, 0.285] "
            "above the base with a few-shot prompt and 0.055 [0.015, 0.100] above the routed "
            "version's",
        ),
        notes=("6 of 200 judged records lack metadata.channel",),
    )


def _slice(
    field: str, value: str, records: int, scores: tuple[float, ...], drop: float | None
) -> SliceFigures:
    return SliceFigures(
        field=field,
        value=value,
        records=records,
        scores=dict(zip(Candidate, scores, strict=True)),
        drop=None if drop is None else Interval(value=drop, low=drop - 0.06, high=drop + 0.05),
    )


def _training() -> tuple[tuple[int, float, float], ...]:
    draw = random.Random(1)
    return tuple(
        (
            step,
            0.17 + 2.7 * math.exp(-step / 38) * draw.uniform(0.86, 1.14) + draw.uniform(0, 0.09),
            3.1e-3 * min(step / 12, 1.0) * (0.55 + 0.45 * math.cos(math.pi * step / _STEPS)),
        )
        for step in range(1, _STEPS + 1)
    )


def _validation() -> tuple[tuple[int, float], ...]:
    return tuple(
        (step, 0.335 + 2.536 * math.exp(-step / 34) + max(step - _BEST, 0) ** 2 / 60_000)
        for step in range(0, _STEPS + 1, 24)
    )


def _throughput() -> tuple[tuple[int, float], ...]:
    draw = random.Random(2)
    return tuple((step, 11_900 * draw.uniform(0.84, 1.07)) for step in range(4, _STEPS + 1, 4))


def _lengths() -> Lengths:
    draw = np.random.default_rng(3)
    return Lengths.of(np.clip(draw.gamma(5.0, 11.0, 1794), 9, 512).astype(np.int64))
