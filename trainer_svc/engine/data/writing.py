"""A dataset's file becomes token files, and an account of every record. No torch is imported."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tailorbird.errors import DataCorrupt, FailedPrecondition, InvalidRecord
from trainer_svc.datasets.records import parse_record
from trainer_svc.engine.data.sequences import Sequencer
from trainer_svc.engine.data.token_files import Piece, Rows, TokenWriter, map_tokens
from trainer_svc.engine.data.work import Source
from trainer_svc.jobs.model import DataReport

_LINES_REPORTED = 100
_REPORT = "report.json"


def write_dataset(
    folder: Path, source: Source, tokenizer: Any, check: Callable[[], None] = lambda: None
) -> None:
    """Write the source's tokens and its report into `folder`; memory does not grow with the file.

    `check` is called between records and their turns and may raise. Raises DataCorrupt if the file
    is not the one that is named (DATASET_CORRUPT); FailedPrecondition for a line that cannot be
    trained on (INVALID_RECORD, also for an id past `rows`, and what Sequencer raises) or if nothing
    is kept (NO_TRAINABLE_RECORDS).
    """
    _check_digest(source)
    ref, limit = source.ref, source.limit
    sequencer = Sequencer(tokenizer, ref.format, limit, check)
    kept, dropped = _write(folder, sequencer.sequences(_records(source, check)), source.rows)
    if not kept:
        raise FailedPrecondition(
            f"all {len(dropped)} records of {ref.name} are longer than max_sequence_length, "
            f"{limit} tokens",
            reason="NO_TRAINABLE_RECORDS",
        )
    _, _, rows = map_tokens(folder)
    report = account(rows, dropped[:_LINES_REPORTED], len(dropped))
    (folder / _REPORT).write_text(report.model_dump_json(), "utf-8")


def read_report(folder: Path) -> DataReport:
    """Return the account that `write_dataset` left in `folder`."""
    return DataReport.model_validate_json((folder / _REPORT).read_bytes())


def account(rows: Rows, dropped: Sequence[int], left_out: int) -> DataReport:
    """Return the report of the examples in `rows`; `left_out` records are not among them."""
    kept = len(np.unique(rows["line"]))
    trained = int(rows["trained"].sum(dtype=np.int64))
    return DataReport(
        records=kept + left_out,
        kept=kept,
        dropped_too_long=left_out,
        dropped_lines=tuple(dropped),
        trained_tokens=trained,
        masked_tokens=int(rows["length"].sum(dtype=np.int64)) - trained,
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


def _records(source: Source, check: Callable[[], None]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    expected = source.ref.format
    with source.path.open("rb") as file:
        for line, raw in enumerate(file, start=1):
            check()
            if not raw.strip():
                continue
            try:
                found, record = parse_record(line, raw)
            except InvalidRecord as error:
                raise _invalid(line, error.description.removeprefix(f"line {line}: ")) from error
            if found != expected:
                raise _invalid(line, f"it is of the format {found}, the dataset of {expected}")
            yield line, record


def _invalid(line: int, message: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"line {line} of the dataset cannot be trained on: {message}",
        reason="INVALID_RECORD",
        line=line,
    )


def _check_digest(source: Source) -> None:
    with source.path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != source.ref.sha256:
        raise DataCorrupt(
            f"the stored file of {source.ref.name} has the digest {found}, not {source.ref.sha256}",
            reason="DATASET_CORRUPT",
            dataset=source.ref.name,
        )
