"""Recall and precision by kind of what is found in labelled sentences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

from bench.personal_data.sentences import Sentence
from tailorbird.personal_data.findings import Finding
from tailorbird.personal_data.scanner import Scanner


@dataclass
class Score:
    """Counts of one kind."""

    values: int = 0
    """Labelled ones."""
    found: int = 0
    """Labelled ones of which every character is covered by findings of the kind."""
    findings: int = 0
    right: int = 0
    """Findings that touch a labelled value of the kind."""

    @property
    def recall(self) -> float | None:
        """`found` over `values`; None of none."""
        return self.found / self.values if self.values else None

    @property
    def precision(self) -> float | None:
        """`right` over `findings`; None of none."""
        return self.right / self.findings if self.findings else None

    def as_figures(self) -> dict[str, float | int | None]:
        """Return counts and shares."""
        return {**asdict(self), "recall": self.recall, "precision": self.precision}


def scored(scanner: Scanner, sentences: Iterable[Sentence]) -> dict[str, Score]:
    """Return each kind's score, and that of all kinds as `all`."""
    scores: dict[str, Score] = {}
    for sentence in sentences:
        findings = scanner.find(sentence.text)
        for kind in {span[0] for span in sentence.spans} | {str(each.kind) for each in findings}:
            score = scores.setdefault(kind, Score())
            _count(score, kind, sentence, [each for each in findings if each.kind == kind])
    scores = dict(sorted(scores.items()))
    total = Score()
    for score in scores.values():
        total.values += score.values
        total.found += score.found
        total.findings += score.findings
        total.right += score.right
    return {**scores, "all": total}


def table(scores: dict[str, Score]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield "| kind | values | found | recall | findings | right | precision |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for kind, score in scores.items():
        yield (
            f"| {kind} | {score.values} | {score.found} | {_share(score.recall)}"
            f" | {score.findings} | {score.right} | {_share(score.precision)} |"
        )


def _share(share: float | None) -> str:
    return "–" if share is None else f"{share:.3f}"


def _count(score: Score, kind: str, sentence: Sentence, findings: list[Finding]) -> None:
    covered = {at for each in findings for at in range(each.start, each.end)}
    labelled = [(start, end) for name, start, end in sentence.spans if name == kind]
    score.values += len(labelled)
    score.found += sum(covered.issuperset(range(start, end)) for start, end in labelled)
    score.findings += len(findings)
    score.right += sum(
        any(each.start < end and start < each.end for start, end in labelled) for each in findings
    )
