"""Records that repeat another, and questions with several answers, found in the digests."""

from __future__ import annotations

import numpy as np

from trainer_svc.datasets.index import RecordIndex
from trainer_svc.datasets.report.model import Contradiction, Contradictions, Duplicates, LinePair

_MAX_PAIRS = 100
_MAX_QUESTIONS, _MAX_LINES = 20, 5


def duplicates(index: RecordIndex) -> Duplicates:
    """Return the records whose question and answer an earlier one has."""
    _, first, inverse = np.unique(index.whole, return_index=True, return_inverse=True)
    first = first[inverse]
    surplus = np.flatnonzero(first != np.arange(len(first)))
    shown = surplus[:_MAX_PAIRS]
    return Duplicates(
        surplus=len(surplus),
        pairs=tuple(
            LinePair(line=line, copy_of=of)
            for line, of in zip(
                index.lines[shown].tolist(), index.lines[first[shown]].tolist(), strict=True
            )
        ),
    )


def contradictions(index: RecordIndex) -> Contradictions:
    """Return the questions that have two answers or more."""
    _, distinct = np.unique(index.whole, return_index=True)
    distinct.sort()
    prompts = index.prompts[distinct]
    questions, first, counts = np.unique(prompts, return_index=True, return_counts=True)
    several = counts > 1
    order = np.argsort(first[several])[:_MAX_QUESTIONS]
    examples = []
    for question, answers in zip(questions[several][order], counts[several][order], strict=True):
        lines = index.lines[distinct[prompts == question][:_MAX_LINES]]
        examples.append(Contradiction(answers=int(answers), lines=tuple(lines.tolist())))
    return Contradictions(
        questions=int(several.sum()),
        records=int(np.isin(index.prompts, questions[several]).sum()),
        examples=tuple(examples),
    )
