"""The operator's general texts and questions, which a tuned model must still know: JSONL."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailorbird.errors import InvalidArgument, InvalidRecord
from tailorbird.records.formats import DatasetFormat, parse_record

_FIELD = "general_data"
_MAX_BYTES = 4 * 2**20
_MAX_RECORDS = 1000


@dataclass(frozen=True)
class GeneralData:
    """Texts, whose loss is measured, and questions with known answers, by their lines."""

    texts: tuple[str, ...]
    questions: Mapping[int, Mapping[str, Any]]
    format: DatasetFormat
    """The questions'."""


def read_general(path: Path) -> GeneralData:
    """Read the file: {"text": …} are texts, records of another format, one for all, questions.

    InvalidArgument names the setting and the line. At most 1,000 records and 4 MiB.
    """
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= _MAX_BYTES else b""
    except OSError as error:
        raise InvalidArgument(_FIELD, f"{path} cannot be read: {error.strerror}") from error
    if size > _MAX_BYTES:
        raise InvalidArgument(_FIELD, f"{path} has {size} bytes; at most {_MAX_BYTES} are read")
    texts: list[str] = []
    questions: dict[int, Mapping[str, Any]] = {}
    formats: dict[DatasetFormat, int] = {}
    for line, raw in enumerate(data.removeprefix(BOM_UTF8).splitlines(), start=1):
        if not raw.strip():
            continue
        format_, record = _parsed(path, line, raw)
        if format_ is DatasetFormat.TEXT:
            texts.append(record["text"])
            continue
        formats.setdefault(format_, line)
        questions[line] = record
    if len(formats) > 1:
        told = ", ".join(f"{each} (line {line})" for each, line in formats.items())
        raise InvalidArgument(_FIELD, f"{path}: questions of one format are expected, not {told}")
    if not 0 < len(texts) + len(questions) <= _MAX_RECORDS:
        raise InvalidArgument(
            _FIELD,
            f"{path} has {len(texts) + len(questions)} records; 1 to {_MAX_RECORDS} are read",
        )
    return GeneralData(tuple(texts), questions, next(iter(formats), DatasetFormat.CHAT))


def _parsed(path: Path, line: int, raw: bytes) -> tuple[DatasetFormat, Mapping[str, Any]]:
    try:
        return parse_record(line, raw)
    except InvalidRecord as error:
        raise InvalidArgument(_FIELD, f"{path}: {error.description}") from error
