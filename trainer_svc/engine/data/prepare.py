"""A dataset's file becomes what is trained: out of the cache, or tokenised into it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from tailorbird.errors import Aborted, FailedPrecondition
from tailorbird.names import DatasetName
from trainer_svc.engine.data.apart import write_apart
from trainer_svc.engine.data.cache import CacheKey, DatasetCache, Entry
from trainer_svc.engine.data.tokenizer_digest import tokenizer_digest
from trainer_svc.engine.data.tokens import TokenDataset
from trainer_svc.engine.data.work import Source, Work
from trainer_svc.engine.data.writing import (
    NOTHING_LEFT_OUT,
    account,
    left_out,
    read_chats,
    read_report,
    write_dataset,
)
from trainer_svc.jobs.events import DataReport
from trainer_svc.protocol import DatasetRef

_SMALL_BYTES = 2**18
"""A file that is tokenised before another process has started: seconds, measured with 2 cores."""


def prepare(
    path: Path,
    ref: DatasetRef,
    tokenizer: Any,
    limit: int,
    cache: DatasetCache,
    stop: Callable[[], bool] = lambda: False,
    *,
    rows: int,
    truncate: bool = False,
    apart: bool = True,
) -> tuple[TokenDataset, DataReport]:
    """Return what is kept of `ref`, whose JSONL file is at `path`, and the account of all of it.

    The work is done once and kept in `cache`; `limit`, `rows` and `truncate` are a Source's. A file
    that is not small is read by a process of its own, which loads the tokenizer from where this one
    came from: tokenising holds the interpreter lock, and steps would wait for it. Not so unless
    `apart`, where there are no steps. Raises what write_dataset and write_apart raise, Unavailable
    (DISK_FULL), and Aborted soon after `stop` says so.
    """
    digest = tokenizer_digest(tokenizer)
    source = Source(path=path, ref=ref, limit=limit, rows=rows, truncate=truncate)

    def check() -> None:
        if stop():
            raise Aborted("the job was stopped while its data was read", reason="STOPPED")

    def build(folder: Path) -> None:
        if not apart or path.stat().st_size <= _SMALL_BYTES:
            write_dataset(folder, source, tokenizer, check)
        else:
            base = Path(tokenizer.name_or_path)
            work = Work(base=base, tokenizer_digest=digest, source=source, folder=folder)
            write_apart(work, check)

    # What cannot be compared is found by nobody.
    key = _key(source, digest or uuid4().hex)
    return _opened(cache.get_or_make(key, build, check))


def prepared(
    ref: DatasetRef,
    tokenizer: Any,
    limit: int,
    cache: DatasetCache,
    *,
    rows: int,
    truncate: bool = False,
) -> tuple[TokenDataset, DataReport] | None:
    """Return what `prepare` would, without the file, if the cache has it."""
    digest = tokenizer_digest(tokenizer)
    source = Source(path=Path(), ref=ref, limit=limit, rows=rows, truncate=truncate)
    if digest is None or (entry := cache.get(_key(source, digest))) is None:
        return None
    return _opened(entry)


def split(
    dataset: TokenDataset,
    report: DataReport,
    fraction: float,
    seed: int,
    *,
    least: int = 1,
    rather_not: npt.NDArray[np.int64] | None = None,
) -> tuple[TokenDataset, TokenDataset, DataReport, DataReport]:
    """Hold out `fraction` of the different records, at least `least`, and leave at least one.

    With lines that are `rather_not` held out it is a fraction of the others, where there are any.
    Copies of a record, whose tokens are the same, are on one side; those of one that is repeated
    more often than there are to be held out are trained on. Returns views of the training and
    validation examples and their reports; what is left out is in the training's.
    FailedPrecondition (NO_TRAINABLE_RECORDS) if there are fewer than two different records.
    """
    found = np.fromiter(dataset.digests(), dtype=[("line", "<i8"), ("digest", "S16")])
    # By the first line of each, so that without copies the draw is one of lines.
    _, first, record, copies = np.unique(
        found["digest"], return_index=True, return_inverse=True, return_counts=True
    )
    if len(first) < 2:
        raise FailedPrecondition(
            "job.spec.validation_fraction needs at least two different records that can be trained"
            " on",
            reason="NO_TRAINABLE_RECORDS",
        )
    few = copies <= max(round(len(found) * fraction), 1)
    if rather_not is not None:
        others = few & ~np.isin(np.arange(len(first)), record[np.isin(found["line"], rather_not)])
        few = others if others.any() else few
    drawn_from = np.sort(first[few] if few.any() else first)
    count = min(max(round(len(drawn_from) * fraction), least), len(drawn_from), len(first) - 1)
    draw = random.Random(f"validation:{seed}")  # noqa: S311
    held = drawn_from[draw.sample(range(len(drawn_from)), count)]
    held_out = np.isin(dataset.lines, found["line"][np.isin(first[record], held)])
    training, validation = dataset.where(~held_out), dataset.where(held_out)
    return (
        training,
        validation,
        account(training.rows, left_out(report, dataset.rows)),
        account(validation.rows, NOTHING_LEFT_OUT),
    )


def _key(source: Source, digest: str) -> CacheKey:
    return CacheKey(
        tenant=DatasetName.parse(source.ref.name).tenant,
        dataset_sha256=source.ref.sha256,
        tokenizer_digest=digest,
        record_format=source.ref.format,
        limit=source.limit,
        rows=source.rows,
        truncate=source.truncate,
    )


def _opened(entry: Entry) -> tuple[TokenDataset, DataReport]:
    dataset = TokenDataset.open(entry.folder, held=entry, chats=read_chats(entry.folder))
    return dataset, read_report(entry.folder)
