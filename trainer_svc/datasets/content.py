"""What a record asks and answers, whatever its format, and what it is compared by. Pure."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from tailorbird.records.chats import template_messages
from tailorbird.records.formats import DatasetFormat

LONGEST_RUN = 30
"""Combining marks in a row that text is normalised with: UAX #15's Stream-Safe Text Format. No
language has as many, and Python sorts a run in the square of its length."""


class Content(NamedTuple):
    """The messages before the answer, each a role and a text, in order; and the answer."""

    prompt: tuple[tuple[str, str], ...]
    answer: str

    @property
    def prompt_characters(self) -> int:
        """Characters of all the prompt's texts."""
        return sum(len(text) for _, text in self.prompt)

    @property
    def question(self) -> str:
        """The prompt's last text, or ""."""
        return self.prompt[-1][1] if self.prompt else ""


def content(format_: DatasetFormat, record: Mapping[str, Any]) -> Content:
    """Return what a record that `parse_record` accepts asks, and its last answer.

    Of a chat it is what a chat template gets, so that it does not matter how a file spells that. A
    prompt and an instruction are a chat of one user message, as the engine renders the latter.
    """
    match format_:
        case DatasetFormat.CHAT:
            *before, last = template_messages(record)
            return Content(tuple((m["role"], _text(m)) for m in before), _text(last))
        case DatasetFormat.PROMPT_COMPLETION:
            return Content((("user", record["prompt"]),), record["completion"])
        case DatasetFormat.INSTRUCTION:
            parts = (record["instruction"], record.get("input"))
            return Content((("user", "\n\n".join(filter(None, parts))),), record["output"])
        case DatasetFormat.TEXT:
            return Content((), record["text"])


def _text(message: Mapping[str, Any]) -> str:
    """Return a template's message's text, and as JSON whatever else of it is learned."""
    rest: dict[str, Any] = {}
    if "tool_calls" in message:
        rest["tool_calls"] = [_call(call) for call in message["tool_calls"]]
    if "tool_call_id" in message:
        rest["tool_call_id"] = message["tool_call_id"]
    text: str = message["content"]
    return text + json.dumps(rest, sort_keys=True) if rest else text


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call whose arguments are text; their keys keep their order, as they are learned."""
    function = call["function"]
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}


def normalised(text: str) -> str:
    """Return `text` in Unicode's form NFC, without white space at its ends.

    A text with more than 30 combining marks in a row is only trimmed.
    """
    text = text.strip()
    if text.isascii() or marks_in_a_row(text).search(text):
        return text
    return unicodedata.normalize("NFC", text)


def marks_in_a_row(text: str) -> re.Pattern[str]:
    """Return what finds the runs of `text`, which is not empty, that are too long: all of each."""
    return _runs(_LAST_OF_BMP if max(text) <= chr(_LAST_OF_BMP) else sys.maxunicode)


_LAST_OF_BMP = 0xFFFF


@cache
def _runs(last: int) -> re.Pattern[str]:
    """Return what finds runs of marks up to this code point; a fifth of a second at most.

    `re` looks a character of the basic plane up in a table, and in a list if there are others.
    """
    # What begins with a combining mark when decomposed is sorted with the marks, too.
    marks = "".join(
        character
        for character in map(chr, range(last + 1))
        if unicodedata.combining(unicodedata.normalize("NFD", character)[0])
    )
    # One of them by itself first: what is none is passed over faster than by a repeat.
    return re.compile(f"[{marks}][{marks}]{{{LONGEST_RUN},}}")
