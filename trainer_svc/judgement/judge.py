"""One judgement: from everybody's answers to figures, intervals, and a decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainer_svc.judgement.bootstrap import FloatArray, intervals, paired
from trainer_svc.judgement.counterfactuals import SwappedPrompt, compare_answers
from trainer_svc.judgement.decision import decide
from trainer_svc.judgement.excerpt import excerpt
from trainer_svc.judgement.graders import lacking
from trainer_svc.judgement.json_schema import JsonSchema
from trainer_svc.judgement.kinds import GRADER_PREFIX, kind_of, primary_metric
from trainer_svc.judgement.labels import NO_CLASS, Classes, likelihood_figures
from trainer_svc.judgement.model import (
    Answer,
    AnswerKind,
    Candidate,
    CandidateFigures,
    Comparison,
    Counterfactuals,
    EvaluationSpec,
    HeldOut,
    Interval,
    Judgement,
    Retention,
    SafetyFinding,
)
from trainer_svc.judgement.safety import EXPECTED, SafetyScreen
from trainer_svc.judgement.samples import choose_samples
from trainer_svc.judgement.scoring import Scorer, Scores
from trainer_svc.judgement.slices import judge_slices
from trainer_svc.judgement.tokens import normalised

_MAX_FIELD = 100
_OTHERS = (Candidate.BASE, Candidate.FEW_SHOT, Candidate.ROUTED)

_CandidateScores = Mapping[Candidate, Mapping[str, Scores]]


@dataclass(frozen=True)
class Evidence:
    """What is judged besides the answers themselves; each may be missing."""

    label_logprobs: Mapping[Candidate, FloatArray] | None = None
    """[records, labels], in nats, in the order of the held-out records and of `labels`."""
    labels: Sequence[str] = ()
    swapped_prompts: Sequence[SwappedPrompt] = ()
    swapped_answers: Sequence[Answer] = ()
    """The tuned adapter's, one for each swapped prompt."""
    retention: Retention | None = None
    screen: SafetyScreen | None = None
    data_findings: Sequence[SafetyFinding] = ()
    """What the screen found in the data before training."""
    few_shot_examples: int = 0
    few_shot_reason: str = ""
    versions: Mapping[Candidate, str] | None = None
    """Resource names of the candidates that are versions."""
    leaked: str = ""
    """Says which records are not among them, as training has their questions."""


def judge_answers(
    spec: EvaluationSpec,
    held_out: Sequence[HeldOut],
    training_answers: Sequence[str],
    answers: Mapping[Candidate, Sequence[Answer]],
    evidence: Evidence | None = None,
    *,
    seed: int = 0,
) -> Judgement:
    """Return the judgement; the same for the same values, whatever the order of the records.

    `answers` hold one for each held-out record, of the tuned adapter and the base at least; the
    `training_answers`, a sample, tell of the classes. InvalidArgument: the primary metric cannot be
    had of such answers, or the schema is none. ValueError: the counts do not fit together.
    """
    evidence = evidence or Evidence()
    _check_counts(held_out, answers, evidence)
    counterfactuals = _counterfactuals(answers, evidence)
    likelihoods = _likelihoods(held_out, evidence)
    order = sorted(range(len(held_out)), key=lambda place: held_out[place].line)
    records = [held_out[place] for place in order]
    said = {
        candidate: [answers[candidate][place] for place in order]
        for candidate in Candidate
        if candidate in answers and records
    }
    expected = [record.expected for record in records]
    kind = kind_of([record.prompt for record in records], expected, training_answers)
    primary, primary_reason = primary_metric(spec, kind)
    schema = JsonSchema(spec.json_schema) if spec.json_schema else None
    classes = Classes([*expected, *training_answers]) if kind is AnswerKind.LABELS else Classes([])
    scorer = Scorer(spec, kind, primary, classes, schema)
    scores = scorer.scores(records, said)
    measured = scores[Candidate.TUNED][primary].measured if records else []
    decisive = {candidate: given[primary].taken(measured) for candidate, given in scores.items()}
    comparisons = _comparisons(decisive, len(measured), seed)
    parts = judge_slices(
        spec.slice_fields if measured else (),
        [records[place].metadata for place in measured],
        decisive,
        seed=seed,
    )
    safety = (*evidence.data_findings, *_findings(evidence.screen, records, said))
    return Judgement(
        records=len(records),
        kind=kind,
        primary_metric=primary,
        primary_reason=primary_reason,
        few_shot_examples=evidence.few_shot_examples,
        few_shot_reason=evidence.few_shot_reason,
        candidates=_figures(scores, said, likelihoods, evidence, seed),
        comparisons=comparisons,
        slices=parts.slices,
        gaps=parts.gaps,
        counterfactuals=counterfactuals,
        retention=evidence.retention,
        safety=safety,
        samples=choose_samples(records, said, scores[Candidate.TUNED][primary], seed=seed)
        if records
        else (),
        decision=decide(
            spec,
            records=len(records),
            measured=len(measured),
            metric=primary,
            comparisons=comparisons,
            slices=parts.slices,
            retention=evidence.retention,
            safety=safety,
            counterfactuals=counterfactuals,
            leaked=evidence.leaked,
        ),
        notes=(
            *_notes(said, kind, schema, expected),
            *_ungraded(spec, records),
            *parts.notes,
        ),
    )


def _check_counts(
    held_out: Sequence[HeldOut],
    answers: Mapping[Candidate, Sequence[Answer]],
    evidence: Evidence,
) -> None:
    if held_out and not {Candidate.TUNED, Candidate.BASE} <= set(answers):
        raise ValueError("answers of the tuned adapter and of the base are needed")
    for candidate, given in answers.items():
        if len(given) != len(held_out):
            raise ValueError(f"{len(given)} answers of {candidate} to {len(held_out)} records")
    for candidate, logprobs in (evidence.label_logprobs or {}).items():
        if logprobs.shape != (len(held_out), len(evidence.labels)):
            raise ValueError(f"label_logprobs of {candidate} are of shape {logprobs.shape}")


def _counterfactuals(
    answers: Mapping[Candidate, Sequence[Answer]], evidence: Evidence
) -> Counterfactuals | None:
    if not evidence.swapped_prompts:
        return None
    return compare_answers(
        evidence.swapped_prompts,
        [answer.text for answer in evidence.swapped_answers],
        [answer.text for answer in answers[Candidate.TUNED]],
    )


def _likelihoods(
    held_out: Sequence[HeldOut], evidence: Evidence
) -> dict[Candidate, tuple[float, float] | None]:
    columns = {normalised(label): column for column, label in enumerate(evidence.labels)}
    expected = [columns.get(normalised(record.expected), NO_CLASS) for record in held_out]
    return {
        candidate: likelihood_figures(logprobs, expected)
        for candidate, logprobs in (evidence.label_logprobs or {}).items()
    }


def _comparisons(
    decisive: Mapping[Candidate, Scores], records: int, seed: int
) -> tuple[Comparison, ...]:
    return tuple(
        Comparison(
            against=other,
            difference=paired(decisive[Candidate.TUNED], decisive[other], records, seed=seed),
        )
        for other in _OTHERS
        if records and other in decisive
    )


def _figures(
    scores: _CandidateScores,
    said: Mapping[Candidate, Sequence[Answer]],
    likelihoods: Mapping[Candidate, tuple[float, float] | None],
    evidence: Evidence,
    seed: int,
) -> tuple[CandidateFigures, ...]:
    figures = []
    for candidate, metrics in scores.items():
        accuracy, error = likelihoods.get(candidate) or (None, None)
        figures.append(
            CandidateFigures(
                candidate=candidate,
                version=(evidence.versions or {}).get(candidate, ""),
                metrics=_told(metrics, seed),
                unfinished=sum(answer.unfinished for answer in said[candidate]),
                label_accuracy_by_likelihood=accuracy,
                calibration_error=error,
            )
        )
    return tuple(figures)


def _told(metrics: Mapping[str, Scores], seed: int) -> dict[str, Interval]:
    """Return each metric that any record has, over the records that have it."""
    together: dict[tuple[int, ...], dict[str, Scores]] = {}
    for name, scores in metrics.items():
        together.setdefault(tuple(scores.measured), {})[name] = scores
    found: dict[str, Interval] = {}
    for places, some in together.items():
        if places:
            taken = [scores.taken(places) for scores in some.values()]
            found |= zip(some, intervals(taken, len(places), seed=seed), strict=True)
    return {name: found[name] for name in metrics if name in found}


def _findings(
    screen: SafetyScreen | None,
    records: Sequence[HeldOut],
    said: Mapping[Candidate, Sequence[Answer]],
) -> list[SafetyFinding]:
    if screen is None:
        return []
    lines = [record.line for record in records]
    findings = screen.scan(EXPECTED, lines, [record.expected for record in records])
    for candidate, given in said.items():
        findings += screen.scan(candidate.value, lines, [answer.text for answer in given])
    return findings


def _ungraded(spec: EvaluationSpec, records: Sequence[HeldOut]) -> list[str]:
    """Say of each grader how many records it leaves out, and for want of what."""
    notes = []
    for grader in spec.graders:
        without = [keys for record in records if (keys := lacking(grader, record.metadata))]
        if without:
            fields = dict.fromkeys(key for keys in without for key in keys)
            named = " or ".join(f"metadata.{excerpt(key, _MAX_FIELD)}" for key in fields)
            notes.append(
                f"{len(without)} of {len(records)} judged records lack {named}:"
                f" {GRADER_PREFIX}{grader.name} leaves them out"
            )
    return notes


def _notes(
    said: Mapping[Candidate, Sequence[Answer]],
    kind: AnswerKind,
    schema: JsonSchema | None,
    expected: Sequence[str],
) -> list[str]:
    notes = []
    for candidate, given in said.items():
        broken = sum(answer.broken for answer in given)
        if broken:
            notes.append(
                f"{broken} of {len(given)} answers of {candidate} broke off in numbers that are"
                " not finite; they score 0"
            )
    if schema is not None and kind is not AnswerKind.JSON:
        notes.append("json_schema was not used: the expected answers are not JSON")
    elif schema is not None and schema.is_exhausted:
        notes.append("json_schema takes too long to check: answers count as not meeting it")
    elif schema is not None and expected and not schema.is_met_by_any(expected):
        notes.append("no expected answer meets json_schema")
    return notes
