"""What is trained on: token ids and masks, drawn or read beforehand, the same for all sides."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Record:
    """One sequence. `trained[i]` is 1 where token i counts in the loss; the first never does."""

    token_ids: Sequence[int]
    trained: Sequence[int]


Step = Sequence[Record]
Workload = Mapping[str, Sequence[Step]]
"""The steps of each job."""

# The demo tokenizer's special tokens stand below.
_FIRST_ID = 16
_LONGEST, _SHORTEST = 1024, 16
_MEDIAN = 96
_SIGMA = 1.0


def small_jobs(
    *,
    jobs: int,
    steps: int,
    records: int,
    tokens: int,
    vocabulary: int,
    prompt_share: float = 0.5,
) -> Workload:
    """Return jobs of equal random records; the first `prompt_share` of each is not trained."""
    draw = random.Random(0)
    return {
        f"job-{job}": [
            [_drawn(draw, tokens, vocabulary, prompt_share) for _ in range(records)]
            for _ in range(steps)
        ]
        for job in range(jobs)
    }


def skewed_job(steps: int, records: int, vocabulary: int) -> Workload:
    """Return one job whose records are as uneven as chats are.

    Lengths are log-normal around a median of 96 tokens with a sigma of 1, from 16 to 1,024.
    """
    draw = random.Random(0)

    def length() -> int:
        return min(max(round(draw.lognormvariate(math.log(_MEDIAN), _SIGMA)), _SHORTEST), _LONGEST)

    return {
        "job-0": [
            [_drawn(draw, length(), vocabulary) for _ in range(records)] for _ in range(steps)
        ]
    }


def cut_into_steps(records: Sequence[Record], per_step: int, steps: int) -> Workload:
    """Return one job of `steps` steps, `per_step` records each, in their order, again and again."""
    return {
        "job-0": [
            [records[(step * per_step + place) % len(records)] for place in range(per_step)]
            for step in range(steps)
        ]
    }


def padded(workload: Workload, pad_id: int = 0) -> Workload:
    """Return the same, every record of a step as long as its longest; padding is not trained."""
    return {
        job: [[_filled(record, _longest(step), pad_id) for record in step] for step in steps]
        for job, steps in workload.items()
    }


def save(workload: Workload, path: Path) -> Path:
    """Write it where another process can read it; return the path."""
    told = {
        job: [[[list(record.token_ids), list(record.trained)] for record in step] for step in steps]
        for job, steps in workload.items()
    }
    path.write_text(json.dumps(told))
    return path


def load(path: Path) -> Workload:
    """Read what `save` wrote."""
    told = json.loads(path.read_text())
    return {
        job: [[Record(ids, trained) for ids, trained in step] for step in steps]
        for job, steps in told.items()
    }


def _drawn(draw: random.Random, tokens: int, vocabulary: int, prompt_share: float = 0.5) -> Record:
    ids = [draw.randrange(_FIRST_ID, vocabulary) for _ in range(tokens)]
    prompt = max(1, round(tokens * prompt_share))
    return Record(ids, [int(place >= prompt) for place in range(tokens)])


def _filled(record: Record, length: int, pad_id: int) -> Record:
    missing = length - len(record.token_ids)
    return replace(
        record,
        token_ids=[*record.token_ids, *[pad_id] * missing],
        trained=[*record.trained, *[0] * missing],
    )


def _longest(step: Step) -> int:
    return max(len(record.token_ids) for record in step)
