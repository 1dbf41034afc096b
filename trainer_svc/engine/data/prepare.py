"""A dataset's file becomes what is trained, and an account of every record of it."""

from __future__ import annotations

import hashlib
import random
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tailorbird.errors import Aborted, DataCorrupt, FailedPrecondition, InvalidRecord
from tailorbird.names import DatasetName
from trainer_svc.datasets.records import parse_record
from trainer_svc.engine.data.cache import CacheKey, DatasetCache
from trainer_svc.engine.data.encoding import tokenizer_digest
from trainer_svc.engine.data.sequences import Sequencer
from trainer_svc.engine.data.tokens import Piece, TokenDataset, TokenWriter
from trainer_svc.jobs.model import DataReport
from trainer_svc.protocol import DatasetRef

_LINES_REPORTED = 100
_REPORT = "report.json"


def prepare(
    path: Path,
    ref: DatasetRef,
    tokenizer: Any,
    limit: int,
    cache: DatasetCache,
    stop: Callable[[], bool] = lambda: False,
    *,
    rows: int,
) -> tuple[TokenDataset, DataReport]:
    """Return what is kept of `ref`, whose JSONL file is at `path`, and the account of all of it.

    Records of more than `limit` tokens are dropped; `rows` is how many token ids the base has. The
    work is done once and kept in `cache`; memory does not grow with the file. Raises DataCorrupt if
    the file is not the one `ref` names (DATASET_CORRUPT); FailedPrecondition for a line that cannot
    be trained on (INVALID_RECORD, also for an id past `rows`, and what Sequencer raises) or if
    nothing is kept (NO_TRAINABLE_RECORDS); Unavailable (DISK_FULL); and Aborted soon after `stop`
    says so, which is asked between records and their turns.
    """
    key = CacheKey(
        tenant=DatasetName.parse(ref.name).tenant,
        dataset_sha256=ref.sha256,
        tokenizer_digest=tokenizer_digest(tokenizer),
        record_format=ref.format,
        limit=limit,
        rows=rows,
    )

    def check() -> None:
        if stop():
            raise Aborted("the job was stopped while its data was read", reason="STOPPED")

    def build(folder: Path) -> None:
        _check_digest(path, ref)
        sequencer = Sequencer(tokenizer, ref.format, limit, check)
        kept, dropped = _write(folder, sequencer.sequences(_records(path, ref, check)), rows)
        if not kept:
            raise FailedPrecondition(
                f"all {len(dropped)} records of {ref.name} are longer than max_sequence_length, "
                f"{limit} tokens",
                reason="NO_TRAINABLE_RECORDS",
            )
        report = _report(TokenDataset.open(folder), dropped[:_LINES_REPORTED], len(dropped))
        (folder / _REPORT).write_text(report.model_dump_json(), "utf-8")

    entry = cache.get_or_make(key, build, check)
    report = DataReport.model_validate_json((entry.folder / _REPORT).read_bytes())
    return TokenDataset.open(entry.folder, held=entry), report


def split(
    dataset: TokenDataset, report: DataReport, fraction: float, seed: int
) -> tuple[TokenDataset, TokenDataset, DataReport, DataReport]:
    """Hold out `fraction` of the records, at least one on each side.

    Returns views of the training and validation examples and their reports; dropped records stay in
    the training's. FailedPrecondition (NO_TRAINABLE_RECORDS) if there are fewer than two records.
    """
    lines = np.unique(dataset.lines)
    if len(lines) < 2:
        raise FailedPrecondition(
            "job.spec.validation_fraction needs at least two records that can be trained on",
            reason="NO_TRAINABLE_RECORDS",
        )
    count = min(max(round(len(lines) * fraction), 1), len(lines) - 1)
    draw = random.Random(f"validation:{seed}")  # noqa: S311
    held = lines[draw.sample(range(len(lines)), count)]
    held_out = np.isin(dataset.lines, held)
    training, validation = dataset.where(~held_out), dataset.where(held_out)
    return (
        training,
        validation,
        _report(training, report.dropped_lines, report.dropped_too_long),
        _report(validation, (), 0),
    )


def _write(
    folder: Path, sequenced: Iterator[tuple[int, list[list[Piece]] | None]], rows: int
) -> tuple[int, array[int]]:
    """Write the sequences of every record into `folder`; return how many, and the lines dropped."""
    kept = 0
    dropped = array("q")
    with TokenWriter(folder) as writer:
        for line, sequences in sequenced:
            if sequences is None:
                dropped.append(line)
                continue
            kept += 1
            for pieces in sequences:
                _check_ids(line, pieces, rows)
                writer.append(line, pieces)
    return kept, dropped


def _check_ids(line: int, pieces: Sequence[Piece], rows: int) -> None:
    """Refuse an id past the embedding: on a GPU it ends every job of the process."""
    highest = max(max(ids, default=0) for ids, _ in pieces)
    if highest >= rows:
        raise _invalid(
            line,
            f"the base's tokenizer gives the token id {highest}, and the base has embeddings for "
            f"{rows} ids, from 0",
        )


def _report(dataset: TokenDataset, dropped: Sequence[int], left_out: int) -> DataReport:
    kept = len(np.unique(dataset.lines))
    trained = dataset.trained_tokens
    return DataReport(
        records=kept + left_out,
        kept=kept,
        dropped_too_long=left_out,
        dropped_lines=tuple(dropped),
        trained_tokens=trained,
        masked_tokens=int(dataset.lengths.sum(dtype=np.int64)) - trained,
    )


def _records(
    path: Path, ref: DatasetRef, check: Callable[[], None]
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open("rb") as file:
        for line, raw in enumerate(file, start=1):
            check()
            if not raw.strip():
                continue
            try:
                found, record = parse_record(line, raw)
            except InvalidRecord as error:
                raise _invalid(line, error.description.removeprefix(f"line {line}: ")) from error
            if found != ref.format:
                raise _invalid(line, f"it is of the format {found}, the dataset of {ref.format}")
            yield line, record


def _invalid(line: int, message: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"line {line} of the dataset cannot be trained on: {message}",
        reason="INVALID_RECORD",
        line=line,
    )


def _check_digest(path: Path, ref: DatasetRef) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != ref.sha256:
        raise DataCorrupt(
            f"the stored file of {ref.name} has the digest {found}, not {ref.sha256}",
            reason="DATASET_CORRUPT",
            dataset=ref.name,
        )
