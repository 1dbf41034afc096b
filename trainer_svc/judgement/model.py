"""What a judgement is asked, and what it says. Plain values, kept in report.json and the job store.

The meaning, unit and range of what is asked stand in job.proto.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from pydantic import Field

from trainer_svc.record import Record


class Candidate(StrEnum):
    """Who answers the held-out records."""

    TUNED = "tuned"
    BASE = "base"
    FEW_SHOT = "few_shot"
    """The base, with examples of the training data before each question."""
    ROUTED = "routed"
    """The version that the adapter's traffic goes to."""


class AnswerKind(StrEnum):
    """What the expected answers are, which decides what is measured of them."""

    LABELS = "labels"
    """Few classes."""
    JSON = "json"
    SUMMARY = "summary"
    """Long texts, each much shorter than what it answers."""
    TEXT = "text"


class Grader(Record):
    """A grader as OpenAI has them, of the kinds that need no model."""

    kind: str
    """string_check or text_similarity; a later release may know more."""
    name: str
    input: str = "{{sample.output_text}}"
    reference: str = "{{item.expected}}"
    operation: str = ""
    """Of a string_check: eq, ne, like (contains) or ilike."""
    evaluation_metric: str = ""
    """Of a text_similarity: fuzzy_match, bleu, rouge_1 to rouge_5 or rouge_l."""


class EvaluationSpec(Record):
    """How the tuned adapter is judged, and what it must hold to be promoted by itself."""

    primary_metric: str = ""
    """The one that decides; "": chosen by the kind of the answers."""
    required_phrases: tuple[str, ...] = ()
    forbidden_phrases: tuple[str, ...] = ()
    graders: tuple[Grader, ...] = ()
    json_schema: str = ""
    slice_fields: tuple[str, ...] = ()
    """Keys of the records' `metadata`."""
    counterfactuals: tuple[tuple[str, ...], ...] = ()
    """Each a set of words that may stand for each other in a prompt without changing the answer."""
    few_shot_examples: int = 8
    max_records: int = 200
    max_slice_drop: float = 0.1
    max_retention_loss: float = 0.5
    max_forgotten: float = 0.2
    max_counterfactual_changes: float | None = None


class HeldOut(Record):
    """A record that was kept from training, to be judged by."""

    line: int
    """From 1."""
    prompt: str
    """As text, for people."""
    expected: str
    metadata: Mapping[str, Any] = {}


class Answer(Record):
    """What a candidate said to one held-out record."""

    text: str
    unfinished: bool = False
    """Cut at the most tokens that an answer may have; it is scored as it is."""
    broken: bool = False
    """Its logits were no numbers; it scores 0 everywhere."""


class Interval(Record):
    """An estimate with its 95% bootstrap interval."""

    value: float
    low: float
    high: float


class CandidateFigures(Record):
    """How one candidate did over all judged records; every metric by its name, 0 to 1."""

    candidate: Candidate
    version: str = ""
    """Of the routed one, its resource name."""
    metrics: dict[str, Interval]
    unfinished: int = 0
    """Answers that were cut at the most tokens that an answer may have."""
    label_accuracy_by_likelihood: float | None = None
    calibration_error: float | None = None
    """Expected calibration error of the labels' likelihoods, 0 to 1 (arXiv:1706.04599)."""


class Comparison(Record):
    """The primary metric of the tuned adapter less that of another candidate, record by record."""

    against: Candidate
    difference: Interval


class SliceFigures(Record):
    """The primary metric on the records whose `metadata.{field}` is `value`."""

    field: str
    value: str
    records: int
    scores: dict[Candidate, float]
    drop: Interval | None = None
    """Best other candidate's less the tuned one's, paired; None: too few records to say."""


class SliceGap(Record):
    """Between the best and the worst slice of a field, of the tuned adapter."""

    field: str
    best: str
    worst: str
    gap: float
    unknown: int = 0
    """Records that lack the field."""


class Counterfactual(Record):
    """One prompt asked twice, with a word swapped."""

    line: int
    swapped: str
    """What was put for what: "he → she"."""
    answer: str
    answer_swapped: str


class Counterfactuals(Record):
    """Whether answers change where they must not."""

    pairs: int
    changed: int
    examples: tuple[Counterfactual, ...] = ()


class Retention(Record):
    """What is left of the base's general ability."""

    texts: int
    base_loss: float
    """Nats per token, on general held-out text."""
    tuned_loss: float
    questions: int
    """General prompts with known answers that the base gets right."""
    forgotten: int
    """Of these, how many the tuned adapter gets wrong."""


class SafetyFinding(Record):
    """How often a category's words or patterns occur in a candidate's answers, or in the data."""

    category: str
    where: str
    """ "training", "validation", "expected" (the held-out answers), or a candidate's name."""
    count: int
    """Texts in which it occurs."""
    lines: tuple[int, ...] = ()
    """Of these texts, the first few."""
    overruns: int = 0
    """Texts that count only because a pattern ran out of time on them."""


class Sample(Record):
    """One held-out record and what each candidate answered; long texts are cut."""

    line: int
    prompt: str
    expected: str
    answers: dict[Candidate, str]


class Decision(Record):
    """Whether the evidence says that the version should take the traffic."""

    promote: bool
    reason: str
    """UPPER_SNAKE: BETTER, NO_HELD_OUT_DATA, NOT_BETTER_THAN_BASE, NOT_BETTER_THAN_FEW_SHOT, ..."""
    message: str
    reasons: tuple[str, ...] = ()
    """Everything that speaks against it, `reason` first; () when it promotes."""


class Judgement(Record):
    """Everything that was found out about one version; the evaluation part of its report.json."""

    records: int
    kind: AnswerKind
    primary_metric: str
    primary_reason: str
    """Why this one: named in the spec, or by the kind of the answers."""
    few_shot_examples: int
    few_shot_reason: str = ""
    """Why fewer than were asked for, or none."""
    candidates: tuple[CandidateFigures, ...]
    comparisons: tuple[Comparison, ...]
    slices: tuple[SliceFigures, ...] = ()
    gaps: tuple[SliceGap, ...] = ()
    counterfactuals: Counterfactuals | None = None
    retention: Retention | None = None
    safety: tuple[SafetyFinding, ...] = ()
    samples: tuple[Sample, ...] = ()
    decision: Decision
    notes: tuple[str, ...] = Field(default=())
    """What could not be judged, and why."""
