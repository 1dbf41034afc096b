"""Datasets to look at: of words that no two records share, with faults put in."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from typing import Any

from tailorbird.records.formats import parse_record
from trainer_svc.datasets.report.building import ReportBuilder
from trainer_svc.datasets.report.model import DatasetReport

Pair = tuple[str, str]


def looked_at(records: Iterable[Mapping[str, Any]]) -> DatasetReport:
    """Return the report on records, the first of which is on line 1."""
    builder = ReportBuilder()
    for line, record in enumerate(records, start=1):
        builder.add(line, *parse_record(line, json.dumps(record).encode()))
    return builder.finish()


def pairs(*given: Pair) -> list[dict[str, Any]]:
    return [{"prompt": prompt, "completion": completion} for prompt, completion in given]


def sentences(count: int, words: int = 12, seed: int = 0) -> list[str]:
    """Return sentences that have nothing in common."""
    draw = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    return [
        " ".join("".join(draw.choices(letters, k=7)) for _ in range(words)) for _ in range(count)
    ]


def clean(count: int, seed: int = 0) -> list[Pair]:
    """Return questions and answers without a fault."""
    found = sentences(2 * count, seed=seed)
    return list(zip(found[:count], found[count:], strict=True))
