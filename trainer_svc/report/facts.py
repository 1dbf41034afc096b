"""What a report says in words and tables, for the page and the model card alike."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tailorbird.line_numbers import say_lines
from tailorbird.personal_data.modes import Mode
from trainer_svc.datasets.personal_data import PersonalDataReport
from trainer_svc.jobs.events import DataReport
from trainer_svc.judgement.model import Candidate, Judgement
from trainer_svc.report import words
from trainer_svc.report.intervals import candidate_label
from trainer_svc.report.model import Report

_LINES_SHOWN = 20
_COUNTS = {
    "records": "Records",
    "kept": "Kept",
    "dropped_too_long": "Dropped: too long",
    "dropped_nothing_to_train": "Dropped: nothing to train",
    "truncated": "Cut at the longest length",
    "trained_tokens": "Tokens that are trained",
    "masked_tokens": "Tokens that are read only",
}
"""What a person would say of DataReport's fields, in order; others are called by their name."""

_PERSONAL = "Personal data"
_SAFETY = "Safety lists"
_DONE = {
    Mode.SCAN: "counted, left as it is",
    Mode.SUBSTITUTE: "replaced by stand-ins",
    Mode.REDACT: "redacted",
    Mode.REFUSE: "none is allowed",
}

_HEADLINES = {
    "TOO_FEW_RECORDS": "Too few records to tell",
    "SLICE_WORSE": "Better, but held back for a part of the data on which it is worse",
    "RETENTION_LOSS": "Better, but held back for what general ability it lost",
    "FORGOTTEN": "Better, but held back for what it forgot",
    "UNSAFE": "Better, but held back for what the safety lists find in its answers",
    "COUNTERFACTUAL_CHANGES": "Better, but held back for answers that change with a word that"
    " must not matter",
    "ROUTED_NOT_JUDGED": "Held back, for want of the routed version's answers",
    "BASE_CHANGED": "Held back, because the routed version is of another base",
}
"""By the decision's reason, of all the first: one that it is no better would stand before these."""


@dataclass(frozen=True)
class Verdict:
    """The decision: what to do, in a few words, and why."""

    promote: bool | None
    """None: nothing was decided."""
    headline: str
    message: str
    reason: str


@dataclass(frozen=True)
class Headline:
    """One figure to see first, what it is, and what to compare it with."""

    name: str
    value: str
    beside: str


@dataclass(frozen=True)
class DataRow:
    """One count of what became of the records, in each of the datasets; "" where it has none."""

    name: str
    training: str
    validation: str


def verdict(report: Report) -> Verdict:
    """Say the decision."""
    decision = report.evaluation.decision or (report.judgement and report.judgement.decision)
    if not decision and report.promoted_always:
        return Verdict(
            None,
            "Promoted by policy, not judged",
            "The job's policy, ALWAYS, gives the version the traffic. It was not compared with"
            " anything on held-out records.",
            "",
        )
    if not decision:
        return Verdict(
            None,
            "Nothing was decided",
            "The version was not compared with anything on held-out records.",
            "",
        )
    if decision.promote:
        headline = "Better: it has earned the traffic"
    else:
        found = _HEADLINES.get(decision.reason, "Not shown to be better")
        found = "Not judged" if report.judgement is None else found
        should = "the job's policy promotes it all the same"
        should = should if report.promoted_always else "it should not take the traffic by itself"
        headline = f"{found}: {should}"
    return Verdict(decision.promote, headline, decision.message, decision.reason)


def headlines(report: Report) -> tuple[Headline, ...]:
    """Return the figures to see first."""
    return tuple(_headlines(report))


def data_rows(report: Report) -> tuple[DataRow, ...]:
    """Return the counts of both datasets, what was dropped with its lines; zeros are left out.

    What was found of personal data, and by the operator's safety lists, comes last.
    """
    training = _counts(report.training_data) | _personal(report.training_personal_data)
    training |= _screened(report)
    validation = _counts(report.validation_data) | _personal(report.validation_personal_data)
    names = [*training, *(name for name in validation if name not in training)]
    return tuple(
        DataRow(name, training.get(name, ""), validation.get(name, "")) for name in _ordered(names)
    )


def run_rows(report: Report) -> dict[str, str]:
    """Return how the run went: steps, tokens, losses."""
    found = report.evaluation
    rows = {"Steps": f"{found.steps:,}"}
    if report.best_step is not None:
        rows["Best step"] = f"{report.best_step:,}"
    if report.tokens:
        rows["Tokens read"] = f"{report.tokens:,}"
    if report.trainable_parameters:
        rows["Trainable parameters"] = f"{report.trainable_parameters:,}"
    for name, loss in (
        ("Training loss, last step", found.training_loss),
        ("Validation loss", found.validation_loss),
        ("Validation loss of the base", found.base_validation_loss),
    ):
        if loss is not None:
            rows[name] = f"{words.loss(loss)} nats per token"
    if found.validation_loss is not None:
        rows["Perplexity"] = words.number(math.exp(min(found.validation_loss, 700.0)))
    return rows


def hyperparameter_rows(report: Report) -> dict[str, str]:
    """Return every choice that was made for the run."""
    lora = report.lora
    rows = {
        "LoRA rank": str(lora.rank),
        "LoRA alpha": words.number(lora.alpha) + (" (rsLoRA)" if lora.use_rslora else ""),
        "LoRA dropout": words.number(lora.dropout),
        "Layers": ", ".join(report.target_modules or lora.target_modules) or "every linear layer",
    }
    for name, value in report.hyperparameters.model_dump(exclude_none=True).items():
        # A seed is a name rather than a quantity.
        rows[words.words(name)] = str(value) if name == "seed" else words.number(value)
    return rows


def lineage_rows(report: Report) -> dict[str, str]:
    """Return where the version comes from; what is not known is left out."""
    lineage = report.lineage
    rows = {
        "Adapter": report.adapter,
        "Job": lineage.job,
        "Trained on from": lineage.from_version,
        "Parent version": lineage.parent_version,
        "Base model": report.base_model,
        "Base model's digest": report.base_model_digest,
        "Training data": lineage.training_dataset,
        "Training data, SHA-256": lineage.training_dataset_sha256,
        "Specification, SHA-256": lineage.spec_sha256,
        "Tailorbird": lineage.code_version,
    }
    return {name: value for name, value in rows.items() if value}


def _headlines(report: Report) -> Iterator[Headline]:
    if report.judgement is not None:
        yield from _primary(report.judgement)
    found = report.evaluation
    if found.validation_loss is not None:
        base = found.base_validation_loss
        beside = "" if base is None else f"base {words.loss(base)}"
        yield Headline("Validation loss", words.loss(found.validation_loss), beside)
    data = report.training_data
    left = data.records - data.kept
    yield Headline("Records trained on", f"{data.kept:,}", f"{left:,} dropped" if left else "")
    best = "" if report.best_step is None else f"best after step {report.best_step:,}"
    yield Headline("Steps", f"{found.steps:,}", best)


def _primary(judgement: Judgement) -> Iterator[Headline]:
    figures = {
        each.candidate: each.metrics[judgement.primary_metric].value
        for each in judgement.candidates
        if judgement.primary_metric in each.metrics
    }
    tuned = figures.pop(Candidate.TUNED, None)
    if tuned is None:
        return
    beside = " · ".join(
        f"{candidate_label(judgement, candidate).lower()} {words.score(value)}"
        for candidate, value in figures.items()
    )
    yield Headline(words.words(judgement.primary_metric), words.score(tuned), beside)


def _ordered(names: list[str]) -> list[str]:
    known = {said: place for place, said in enumerate(_COUNTS.values())}
    return sorted(names, key=lambda name: known.get(name.partition(" · ")[0], len(known)))


def _counts(data: DataReport | None) -> dict[str, str]:
    """Say every field of the report that has something to tell, whichever a release has."""
    counts: dict[str, str] = {}
    for field, value in ({} if data is None else data.model_dump()).items():
        name = _COUNTS.get(field, words.words(field))
        if isinstance(value, dict):
            counts |= {f"{name} · {kind}": _said(each) for kind, each in value.items()}
        elif value or field in ("records", "kept"):
            counts[name] = _said(value)
    return counts


def _personal(found: PersonalDataReport | None) -> dict[str, str]:
    """Say what was done about personal data, how many records have some, and of which kinds."""
    if found is None:
        return {}
    return {
        _PERSONAL: _DONE.get(found.mode, found.mode),
        f"{_PERSONAL} · Records": words.number(found.records),
        **{f"{_PERSONAL} · {words.words(k)}": words.number(n) for k, n in found.counts.items()},
    }


def _screened(report: Report) -> dict[str, str]:
    """Say in how many records the safety lists were looked for, and where what was found."""
    if report.training_screened is None:
        return {}
    return {
        f"{_SAFETY} · Records searched": words.number(report.training_screened),
        **{
            f"{_SAFETY} · {words.words(each.category)}": f"{words.number(each.count)}:"
            f" {say_lines(each.lines, each.count)}"
            for each in report.training_safety
        },
    }


def _said(value: Any) -> str:
    if not isinstance(value, tuple):
        return words.number(value) if isinstance(value, int | float) else str(value)
    more = ", …" if len(value) > _LINES_SHOWN else ""
    return ", ".join(str(line) for line in value[:_LINES_SHOWN]) + more
