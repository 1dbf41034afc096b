"""What a line of a dataset may be. Pure; the engine turns the same records into tokens.

chat                {"messages": [{"role": ..., "content": ...}, ...]}   see `chats`
prompt_completion   {"prompt": "...", "completion": "..."}
instruction         {"instruction": "...", "input": "...", "output": "..."}   input is optional
text                {"text": "..."}

Other top-level keys are allowed; but for `metadata`, which slices are made by, they are not read.
"""

from __future__ import annotations

import json
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

from tailorbird.errors import InvalidRecord
from tailorbird.records.chats import check_chat
from tailorbird.records.checks import (
    Unfit,
    check_answer,
    check_keys,
    check_metadata,
    check_text,
    kind,
)


class DatasetFormat(StrEnum):
    """The shape of every record of a dataset."""

    CHAT = "chat"
    PROMPT_COMPLETION = "prompt_completion"
    INSTRUCTION = "instruction"
    TEXT = "text"


_NEEDED = {
    DatasetFormat.CHAT: {"messages"},
    DatasetFormat.PROMPT_COMPLETION: {"prompt", "completion"},
    DatasetFormat.INSTRUCTION: {"instruction", "output"},
    DatasetFormat.TEXT: {"text"},
}
"""The keys that make a record one of a format; the first that fits is the one that is found."""
_OPTIONAL = {DatasetFormat.CHAT: {"tools"}, DatasetFormat.INSTRUCTION: {"input"}}


def parse_record(
    line: int, data: bytes, expected: DatasetFormat | None = None
) -> tuple[DatasetFormat, Mapping[str, Any]]:
    """Return the format and content of one line; InvalidRecord says what is wrong with it.

    A record that can be read as several formats is of the `expected` one.
    """
    try:
        record = _loaded(data)
        check_keys(record)
        format_ = _format(record, expected)
        _CHECKS[format_](record)
    except Unfit as error:
        raise InvalidRecord(line, str(error), reason=error.reason) from error
    return format_, record


def parse_upload(
    line: int, data: bytes, expected: DatasetFormat | None
) -> tuple[DatasetFormat, Mapping[str, Any]]:
    """Return what parse_record does; InvalidRecord also for metadata that no slice is made by.

    Datasets of earlier releases may have such metadata, and are trained on.
    """
    format_, record = parse_record(line, data, expected)
    try:
        check_metadata(record)
    except Unfit as error:
        raise InvalidRecord(line, str(error)) from error
    return format_, record


def ignored_keys(format_: DatasetFormat, record: Mapping[str, Any]) -> set[str]:
    """Return the top-level keys that nothing reads."""
    return set(record) - _NEEDED[format_] - _OPTIONAL.get(format_, set()) - {"metadata"}


def _loaded(data: bytes) -> dict[str, Any]:
    if data.startswith(BOM_UTF8):
        raise Unfit("", "begins with a byte order mark, which only a file's first line may")
    if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        raise Unfit("", "begins with the byte order mark of UTF-16; save the file as UTF-8")
    try:
        record = json.loads(data.decode())
    except UnicodeDecodeError as error:
        raise Unfit("", f"byte {error.start + 1} is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise Unfit("", f"not JSON ({_told(error)}); JSONL has one object a line") from error
    except (RecursionError, ValueError) as error:
        raise Unfit("", "nested too deeply, or a number too long") from error
    if not isinstance(record, dict):
        raise Unfit("", f"a JSON object is expected, not {kind(record)}")
    return record


def _told(error: json.JSONDecodeError) -> str:
    # Some of the decoder's texts end with the word.
    what = f"{error.msg.removesuffix(' at')} at column {error.colno}"
    if error.msg.startswith("Invalid control character"):
        what += r": in a string it must be escaped, as in \n, \t or \u001b"
    return what


def _format(record: Mapping[str, Any], expected: DatasetFormat | None) -> DatasetFormat:
    if expected is not None and _NEEDED[expected] <= record.keys():
        return expected
    for format_, keys in _NEEDED.items():
        if keys <= record.keys():
            return format_
    found = ", ".join(sorted(record)[:8]) or "none"
    raise Unfit(
        "",
        "unknown shape: neither messages, nor prompt and completion, nor instruction and output, "
        f"nor text (keys: {found[:200]})",
        reason="UNKNOWN_RECORD_SHAPE",
    )


def _check_prompt_completion(record: Mapping[str, Any]) -> None:
    check_text(record, "prompt")
    check_answer(record, "completion")


def _check_instruction(record: Mapping[str, Any]) -> None:
    check_text(record, "instruction")
    check_answer(record, "output")
    if record.get("input") not in (None, ""):
        check_text(record, "input")


def _check_plain_text(record: Mapping[str, Any]) -> None:
    check_answer(record, "text")


_CHECKS: Mapping[DatasetFormat, Callable[[Mapping[str, Any]], None]] = {
    DatasetFormat.CHAT: check_chat,
    DatasetFormat.PROMPT_COMPLETION: _check_prompt_completion,
    DatasetFormat.INSTRUCTION: _check_instruction,
    DatasetFormat.TEXT: _check_plain_text,
}
