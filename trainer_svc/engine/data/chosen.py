"""Which records a job is judged on, and which it may show as examples: chosen by its seed."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.errors import DataCorrupt
from tailorbird.records.formats import ignored_keys, parse_record
from trainer_svc.engine.data.leaks import NOTHING_LEAKED, Leaked
from trainer_svc.jobs.events import JobWarning
from trainer_svc.jobs.held_out import seen

_SHOWN = 1000
"""Training records that examples are drawn from, and whose answers tell the classes."""

_HELD_BYTES = 64 * 2**20
"""That these may have, and as many those that are answered: a record may be as long as a mebibyte,
and takes several times that, in a worker that others share."""


@dataclass(frozen=True)
class Chosen:
    """Line numbers, ascending, of the records to answer and of those to draw examples from."""

    held_out: tuple[int, ...]
    training: tuple[int, ...]
    leaked: str = ""
    """Says of how many held-out records training has the question, or data of a version that the
    weights come from: none of them is answered."""
    unknown: str = ""
    """Says of which held-out records that is not known."""
    unjudged: JobWarning | None = None
    """Says why none is answered."""


def choose(
    training: npt.NDArray[np.int64],
    held_out: npt.NDArray[np.int64],
    most: int,
    seed: int,
    leaked: Leaked = NOTHING_LEAKED,
) -> Chosen:
    """Return at most `most` of the lines `held_out`, and some of `training`; by the seed alone.

    Of the held-out ones none that is leaked.
    """
    every = np.unique(held_out)
    own, inherited = np.isin(every, leaked.own), np.isin(every, leaked.inherited)
    apart = every[~(own | inherited)]
    return Chosen(
        held_out=_drawn(apart, most, f"judged:{seed}"),
        training=_drawn(training, _SHOWN, f"shown:{seed}"),
        leaked=seen(int(own.sum()), int(inherited.sum()), len(every) - len(apart), len(every)),
        unknown=leaked.unknown,
    )


def read_records(
    path: Path, lines: Collection[int], sample: Collection[int] = ()
) -> dict[int, Mapping[str, Any]]:
    """Return the records on these lines of a dataset's file; DataCorrupt if one is not there.

    Also those of `sample`. Of either the first, until they have 64 MiB; of a record what is read of
    it anywhere (see `tailorbird.records.formats`).
    """
    needed, wanted = set(lines), set(sample) - set(lines)
    last = max(needed | wanted, default=0)
    room = {True: _HELD_BYTES, False: _HELD_BYTES}
    line = 0
    found: dict[int, Mapping[str, Any]] = {}
    with path.open("rb") as file:
        for line, raw in enumerate(islice(file, last), start=1):
            is_needed = line in needed
            if not is_needed and line not in wanted:
                continue
            room[is_needed] -= len(raw)
            if room[is_needed] >= 0:
                found[line] = _read(line, raw)
    if line < last:
        missing = min(each for each in needed | wanted if each > line)
        raise DataCorrupt(f"a dataset's file has no line {missing}", reason="DATASET_CORRUPT")
    return found


def _read(line: int, raw: bytes) -> Mapping[str, Any]:
    format_, record = parse_record(line, raw)
    unread = ignored_keys(format_, record)
    return {key: value for key, value in record.items() if key not in unread}


def _drawn(lines: npt.NDArray[np.int64], most: int, seed: str) -> tuple[int, ...]:
    every = np.unique(lines).tolist()
    if len(every) <= most:
        return tuple(every)
    return tuple(sorted(random.Random(seed).sample(every, most)))  # noqa: S311
