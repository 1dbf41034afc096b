"""What was found out about a version, for people: a table of candidates, and what it means."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group
from rich.table import Table
from rich.text import Text

from tailorbird.adapters.v1 import judgement_pb2 as pb
from tailorbird.line_numbers import say_lines

_NAMES = {"tuned": "TUNED", "base": "BASE", "few_shot": "FEW-SHOT", "routed": "ROUTED NOW"}


def judgement_lines(judgement: pb.Judgement) -> Group:
    """Show every metric of every candidate, then the decision and what it rests on."""
    return Group(_table(judgement), *(Text(line) for line in _sentences(judgement)))


def _table(judgement: pb.Judgement) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(f"{judgement.records} HELD-OUT RECORDS")
    for each in judgement.candidates:
        table.add_column(_head(judgement, each.candidate), justify="right")
    for name in _metrics(judgement):
        cells = (_cell(each, name) for each in judgement.candidates)
        mark = " *" if name == judgement.primary_metric else ""
        table.add_row(Text(name + mark), *map(Text, cells))
    return table


def _head(judgement: pb.Judgement, candidate: str) -> str:
    shots = f" ({judgement.few_shot_examples})" if candidate == "few_shot" else ""
    return _NAMES.get(candidate, candidate) + shots


def _metrics(judgement: pb.Judgement) -> list[str]:
    """Return the metrics' names, the primary one first."""
    names = {name for each in judgement.candidates for name in each.metrics}
    return sorted(names, key=lambda name: (name != judgement.primary_metric, name))


def _cell(figures: pb.Judgement.CandidateFigures, name: str) -> str:
    if name not in figures.metrics:
        return ""
    found = figures.metrics[name]
    return f"{found.value:.3f} [{found.low:.2f}, {found.high:.2f}]"


def _sentences(judgement: pb.Judgement) -> Iterator[str]:
    yield f"* {judgement.primary_metric} decides: {judgement.primary_reason}"
    for compared in judgement.comparisons:
        found = compared.difference
        yield (
            f"tuned less {compared.against.replace('_', '-')}: {found.value:+.3f} "
            f"[{found.low:+.3f}, {found.high:+.3f}]"
        )
    for gap in judgement.gaps:
        yield f"{gap.field}: best {gap.best}, worst {gap.worst}, {gap.gap:.3f} apart"
    if judgement.HasField("retention"):
        kept = judgement.retention
        yield (
            f"general texts: loss {kept.base_loss:.3f} before, {kept.tuned_loss:.3f} after; "
            f"{kept.forgotten} of {kept.questions} general questions forgotten"
        )
    if judgement.HasField("counterfactuals"):
        pairs = judgement.counterfactuals
        yield f"{pairs.changed} of {pairs.pairs} answers change when a word is swapped"
    for each in judgement.safety:
        lines = say_lines(each.lines, each.count)
        yield f"safety: {each.category} in {each.count} of {each.where}: {lines}"
    if judgement.few_shot_reason:
        yield f"few-shot: {judgement.few_shot_reason}"
    yield from judgement.notes
    decision = judgement.decision
    yield f"{'better' if decision.promote else decision.reason}: {decision.message}"
