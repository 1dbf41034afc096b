"""What a line of a dataset may be. Pure; the engine turns the same records into tokens.

chat                {"messages": [{"role": ..., "content": ...}, ...]}   the last is the assistant's
prompt_completion   {"prompt": "...", "completion": "..."}
instruction         {"instruction": "...", "input": "...", "output": "..."}   input is optional

Other top-level keys are allowed and ignored; other keys of a message are not, because some of them
("weight", "tool_calls") would change what is learned.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from tailorbird.errors import InvalidRecord

_ROLES = ("system", "user", "assistant")


class DatasetFormat(StrEnum):
    """The shape of every record of a dataset."""

    CHAT = "chat"
    PROMPT_COMPLETION = "prompt_completion"
    INSTRUCTION = "instruction"


_KEYS = {
    DatasetFormat.CHAT: {"messages"},
    DatasetFormat.PROMPT_COMPLETION: {"prompt", "completion"},
    DatasetFormat.INSTRUCTION: {"instruction", "input", "output"},
}


def parse_record(line: int, data: bytes) -> tuple[DatasetFormat, Mapping[str, Any]]:
    """Return the format and content of one line; InvalidRecord says what is wrong with it."""
    try:
        record = json.loads(data.decode())
    except UnicodeDecodeError as error:
        raise InvalidRecord(line, f"byte {error.start + 1} is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise InvalidRecord(
            line, f"not JSON ({error.msg} at column {error.colno}); JSONL has one object a line"
        ) from error
    except (RecursionError, ValueError) as error:
        raise InvalidRecord(line, "nested too deeply, or a number too long") from error
    if not isinstance(record, dict):
        raise InvalidRecord(line, f"a JSON object is expected, not {_kind(record)}")
    _check_keys(line, record)
    format_ = _format(line, record)
    match format_:
        case DatasetFormat.CHAT:
            _check_messages(line, record["messages"])
        case DatasetFormat.PROMPT_COMPLETION:
            _check_text(line, record, "prompt")
            _check_answer(line, record, "completion")
        case DatasetFormat.INSTRUCTION:
            _check_text(line, record, "instruction")
            _check_answer(line, record, "output")
            if record.get("input") not in (None, ""):
                _check_text(line, record, "input")
    return format_, record


def ignored_keys(format_: DatasetFormat, record: Mapping[str, Any]) -> set[str]:
    """Return the top-level keys that training does not read."""
    return set(record) - _KEYS[format_]


def _format(line: int, record: Mapping[str, Any]) -> DatasetFormat:
    if "messages" in record:
        return DatasetFormat.CHAT
    if "prompt" in record and "completion" in record:
        return DatasetFormat.PROMPT_COMPLETION
    if "instruction" in record and "output" in record:
        return DatasetFormat.INSTRUCTION
    keys = ", ".join(sorted(record)[:8]) or "none"
    raise InvalidRecord(
        line,
        "unknown shape: neither messages, nor prompt and completion, nor instruction and output"
        f" (keys: {keys[:200]})",
        reason="UNKNOWN_RECORD_SHAPE",
    )


def _check_messages(line: int, messages: object) -> None:
    if not isinstance(messages, list) or not messages:
        raise InvalidRecord(line, "messages: a list with at least one message is expected")
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, dict):
            raise InvalidRecord(line, f"{where}: an object is expected, not {_kind(message)}")
        if message.get("role") not in _ROLES:
            raise InvalidRecord(line, f"{where}.role: one of {', '.join(_ROLES)} is expected")
        _check_keys(line, message, where + ".")
        unknown = sorted(set(message) - {"role", "content"})
        if unknown:
            raise InvalidRecord(line, f"{where}.{unknown[0][:64]}: not supported")
        check = _check_answer if message["role"] == "assistant" else _check_text
        check(line, message, "content", where + ".")
    if messages[0]["role"] == "assistant":
        raise InvalidRecord(
            line, "messages[0].role: the first message must be the system's or the user's"
        )
    if messages[-1]["role"] != "assistant":
        raise InvalidRecord(line, f"{where}.role: the last message must be the assistant's")


def _check_text(line: int, record: Mapping[str, Any], key: str, where: str = "") -> None:
    text = record.get(key)
    if not isinstance(text, str):
        raise InvalidRecord(line, f"{where}{key}: a string is expected, not {_kind(text)}")
    if not text:
        raise InvalidRecord(line, f"{where}{key}: empty")
    _check_unicode(line, text, f"{where}{key}")


def _check_answer(line: int, record: Mapping[str, Any], key: str, where: str = "") -> None:
    _check_text(line, record, key, where)
    if not record[key].strip():
        raise InvalidRecord(line, f"{where}{key}: only white space, which cannot be trained on")


def _check_keys(line: int, record: Mapping[str, Any], where: str = "") -> None:
    for index, key in enumerate(record, start=1):
        _check_unicode(line, key, f"{where}key {index}")


def _check_unicode(line: int, text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRecord(
            line, f"{where}: half a surrogate pair at character {error.start + 1}"
        ) from error


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")
