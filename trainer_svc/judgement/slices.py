"""How the adapter does on parts of the data: the records whose `metadata.{field}` is one value."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer_svc.judgement.bootstrap import paired
from trainer_svc.judgement.excerpt import excerpt
from trainer_svc.judgement.model import Candidate, EvaluationSpec, SliceFigures, SliceGap
from trainer_svc.judgement.scoring import Scores

MIN_RECORDS = 10
"""Of a slice, below which nothing is concluded from it."""

MAX_VALUES = 20
"""Of a field; the rarer ones are pooled."""

OTHER = "other"
_MAX_VALUE = 100
_MAX_FIELD = 100


@dataclass(frozen=True)
class SliceJudgement:
    """The slices of all fields, the gaps between them, and what had to be left out."""

    slices: tuple[SliceFigures, ...]
    gaps: tuple[SliceGap, ...]
    notes: tuple[str, ...]


def judge_slices(
    fields: Sequence[str],
    metadata: Sequence[Mapping[str, Any]],
    scores: Mapping[Candidate, Scores],
    *,
    seed: int,
) -> SliceJudgement:
    """Return the figures of each slice; `scores` are of the primary metric, over all records.

    A value is a text, a number or a boolean; whatever else stands there counts as lacking. A
    field's values are ordered by how many records have them, the pooled ones last.
    """
    slices: list[SliceFigures] = []
    gaps: list[SliceGap] = []
    notes: list[str] = []
    for field in fields:
        places, pooled = _places(field, metadata)
        unknown = len(metadata) - sum(map(len, places.values()))
        if unknown:
            notes.append(
                f"{unknown} of {len(metadata)} judged records lack metadata.{_name(field)}"
            )
        if pooled:
            notes.append(
                f"metadata.{_name(field)} has more than {MAX_VALUES} values:"
                f" the {pooled} rarest are told as {OTHER!r}"
            )
        figures = [_figures(field, value, at, scores, seed) for value, at in places.items()]
        slices.extend(figures)
        gaps.extend(_gap(figures, unknown))
    return SliceJudgement(tuple(slices), tuple(gaps), tuple(notes))


def slice_failures(spec: EvaluationSpec, slices: Sequence[SliceFigures]) -> list[tuple[str, str]]:
    """Return SLICE_WORSE with its message for each slice that lost more than it may.

    That is: the drop is larger than `max_slice_drop`, and its interval says that there is one.
    """
    return [
        (
            "SLICE_WORSE",
            f"on the {part.records} records with metadata.{part.field} = {part.value!r} the tuned"
            f" model is {part.drop.value:.3f} [{part.drop.low:.3f}, {part.drop.high:.3f}] worse"
            f" than the best other; at most {spec.max_slice_drop:g} is allowed",
        )
        for part in slices
        if part.drop is not None and part.drop.value > spec.max_slice_drop and part.drop.low > 0
    ]


def _places(field: str, metadata: Sequence[Mapping[str, Any]]) -> tuple[dict[str, list[int]], int]:
    """Return where each value stands, and how many values are pooled."""
    values = [_value(record.get(field)) for record in metadata]
    counts = Counter(value for value in values if value is not None)
    ordered = sorted(counts, key=lambda value: (-counts[value], value))
    kept = ordered if len(ordered) <= MAX_VALUES else ordered[: MAX_VALUES - 1]
    places: dict[str, list[int]] = {value: [] for value in kept if value != OTHER}
    for place, value in enumerate(values):
        if value is not None:
            places.setdefault(value if value in places else OTHER, []).append(place)
    return places, len(ordered) - len(kept)


def _value(value: object) -> str | None:
    if isinstance(value, str):
        return value.strip() or None
    return json.dumps(value) if isinstance(value, bool | int | float) else None


def _figures(
    field: str,
    value: str,
    places: Sequence[int],
    scores: Mapping[Candidate, Scores],
    seed: int,
) -> SliceFigures:
    of_slice = {candidate: given.taken(places) for candidate, given in scores.items()}
    figures = {candidate: round(given.figure, 6) for candidate, given in of_slice.items()}
    others = [candidate for candidate in figures if candidate is not Candidate.TUNED]
    drop = None
    if others and len(places) >= MIN_RECORDS:
        best = max(others, key=lambda candidate: figures[candidate])
        drop = paired(of_slice[best], of_slice[Candidate.TUNED], len(places), seed=seed)
    return SliceFigures(
        field=_name(field),
        value=excerpt(value, _MAX_VALUE),
        records=len(places),
        scores=figures,
        drop=drop,
    )


def _gap(figures: Sequence[SliceFigures], unknown: int) -> list[SliceGap]:
    """Return the gap between a field's slices that have enough records; [] if fewer than two."""
    judged = [part for part in figures if part.records >= MIN_RECORDS]
    if len(judged) < 2:
        return []
    best = max(judged, key=lambda part: part.scores[Candidate.TUNED])
    worst = min(judged, key=lambda part: part.scores[Candidate.TUNED])
    gap = best.scores[Candidate.TUNED] - worst.scores[Candidate.TUNED]
    return [
        SliceGap(
            field=best.field,
            best=best.value,
            worst=worst.value,
            gap=round(gap, 6),
            unknown=unknown,
        )
    ]


def _name(field: str) -> str:
    return excerpt(field, _MAX_FIELD)
