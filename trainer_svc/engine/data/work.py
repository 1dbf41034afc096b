"""What the process that tokenises a dataset is told, and what it says. Plain values."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from trainer_svc.jobs.model import JobError
from trainer_svc.protocol import DatasetRef
from trainer_svc.record import Record


class Source(Record):
    """What is tokenised: `ref`, whose JSONL file is at `path`.

    Records of more than `limit` tokens are dropped, or with `truncate` cut there; `rows` is how
    many token ids the base has.
    """

    path: Path
    ref: DatasetRef
    limit: int
    rows: int
    truncate: bool = False


class Work(Record):
    """Write the token files of `source` into `folder`.

    `base` is the folder of the tokenizer, `tokenizer_digest` the one that it must have.
    """

    base: Path
    tokenizer_digest: str | None
    source: Source
    folder: Path


class Outcome(Record):
    """How the work ended.

    `error` is there for "refused" (FailedPrecondition), "corrupt" (DataCorrupt) and "unavailable"
    (Unavailable), `errno` for "system" (OSError).
    """

    kind: Literal["done", "refused", "corrupt", "unavailable", "system"]
    error: JobError | None = None
    errno: int = 0
