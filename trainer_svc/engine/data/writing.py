"""A dataset's file becomes token files, and an account of every record. No torch is imported."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from tailorbird.errors import DataCorrupt, FailedPrecondition, InvalidRecord
from tailorbird.manifest import RenderedChat
from tailorbird.records.formats import DatasetFormat, parse_record
from trainer_svc.engine.data.rendered import ChatPool
from trainer_svc.engine.data.sequences import Sequenced, Sequencer
from trainer_svc.engine.data.token_files import Piece, Rows, TokenWriter, map_tokens
from trainer_svc.engine.data.work import Source
from trainer_svc.jobs.data_account import nothing_kept
from trainer_svc.jobs.events import DataReport
from trainer_svc.protocol import DatasetRef

_CHAT_LIST = TypeAdapter(tuple[RenderedChat, ...])
_LINES_REPORTED = 100
_REPORT = "report.json"
_CHATS = "chats.json"


def write_dataset(
    folder: Path, source: Source, tokenizer: Any, check: Callable[[], None] = lambda: None
) -> None:
    """Write the source's tokens, its report and some of its chats, rendered, into `folder`.

    Memory does not grow with the file.

    `check` is called between records and their turns and may raise. Raises DataCorrupt if the file
    is not the one that is named (DATASET_CORRUPT); FailedPrecondition for a line that cannot be
    trained on (INVALID_RECORD, also for an id past `rows`, and what Sequencer raises) or if nothing
    is kept (NO_TRAINABLE_RECORDS).
    """
    ref = source.ref
    check_digest(source.path, ref)
    sequencer = Sequencer(tokenizer, ref.format, source.limit, check, truncate=source.truncate)
    chats = ChatPool(ref.format)
    records = chats.seen(_records(source, check))
    left, written = _write(folder, sequencer.sequences(records), source)
    if not written:
        raise nothing_kept(left, source.limit, ref.name)
    _, _, rows = map_tokens(folder)
    (folder / _REPORT).write_text(account(rows, left).model_dump_json(), "utf-8")
    (folder / _CHATS).write_bytes(_CHAT_LIST.dump_json(chats.rendered(tokenizer, source.limit)))


def read_report(folder: Path) -> DataReport:
    """Return the account that `write_dataset` left in `folder`."""
    return DataReport.model_validate_json((folder / _REPORT).read_bytes())


def read_chats(folder: Path) -> tuple[RenderedChat, ...]:
    """Return the chats that `write_dataset` left in `folder`."""
    return _CHAT_LIST.validate_json((folder / _CHATS).read_bytes())


def account(rows: Rows, left: DataReport) -> DataReport:
    """Return the report of the examples in `rows`, and of what `left` says was left out."""
    kept = len(np.unique(rows["line"]))
    trained = int(rows["trained"].sum(dtype=np.int64))
    cut = np.unique(rows["line"][rows["cut"]])
    cut_lines = sorted({*cut[:_LINES_REPORTED].tolist(), *left.truncated_lines})
    return left.model_copy(
        update={
            "records": kept + left.records,
            "kept": kept,
            "trained_tokens": trained,
            "masked_tokens": int(rows["length"].sum(dtype=np.int64)) - trained,
            "truncated": len(cut) + left.truncated,
            "truncated_lines": tuple(cut_lines[:_LINES_REPORTED]),
        }
    )


def left_out(report: DataReport, rows: Rows) -> DataReport:
    """Return what `report`, which is of the examples in `rows`, says was left out."""
    cut = np.unique(rows["line"][rows["cut"]])
    return report.model_copy(
        update={
            "records": report.records - report.kept,
            "kept": 0,
            "truncated": report.truncated - len(cut),
            "truncated_lines": tuple(line for line in report.truncated_lines if line not in cut),
        }
    )


NOTHING_LEFT_OUT = DataReport(
    records=0, kept=0, dropped_too_long=0, dropped_lines=(), trained_tokens=0, masked_tokens=0
)


class _Lines:
    """How many lines there are of a kind, and which are the first."""

    def __init__(self) -> None:
        self.count = 0
        self.first: tuple[int, ...] = ()

    def add(self, line: int) -> None:
        self.count += 1
        if self.count <= _LINES_REPORTED:
            self.first += (line,)


def _write(folder: Path, sequenced: Iterator[Sequenced], source: Source) -> tuple[DataReport, bool]:
    """Write the sequences of every record into `folder`.

    Returns what is left out, and whether anything was written.
    """
    written = False
    dropped, nothing, cut_away = _Lines(), _Lines(), _Lines()
    with TokenWriter(folder) as writer:
        for line, sequences, too_long in sequenced:
            for pieces in sequences:
                _check_ids(line, pieces, source.rows)
                writer.append(line, pieces, cut=too_long)
            if sequences:
                written = True
            elif too_long and not source.truncate:
                dropped.add(line)
            else:
                nothing.add(line)
                if too_long:
                    cut_away.add(line)
    left = NOTHING_LEFT_OUT.model_copy(
        update={
            "records": dropped.count + nothing.count,
            "dropped_too_long": dropped.count,
            "dropped_lines": dropped.first,
            "dropped_nothing_to_train": nothing.count,
            "nothing_to_train_lines": nothing.first,
            "truncated": cut_away.count,
            "truncated_lines": cut_away.first,
        }
    )
    return left, written


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
    expected = DatasetFormat(source.ref.format)
    with source.path.open("rb") as file:
        for line, raw in enumerate(file, start=1):
            check()
            if not raw.strip():
                continue
            try:
                found, record = parse_record(line, raw, expected)
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


def check_digest(path: Path, ref: DatasetRef) -> None:
    """Raise DataCorrupt (DATASET_CORRUPT) if the file at `path` is not the one that is named."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != ref.sha256:
        raise DataCorrupt(
            f"the stored file of {ref.name} has the digest {found}, not {ref.sha256}",
            reason="DATASET_CORRUPT",
            dataset=ref.name,
        )
