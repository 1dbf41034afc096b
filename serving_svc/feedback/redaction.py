"""Rids records of personal data: in a thread of its own, tenants in turn."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from tailorbird.errors import InvalidArgument, ResourceExhausted, Unavailable
from tailorbird.feedback import FeedbackRecord
from tailorbird.personal_data.modes import Mode
from tailorbird.personal_data.record_texts import put_texts, record_texts
from tailorbird.turns import Turns

if TYPE_CHECKING:
    from tailorbird.personal_data.scanner import Scanner

# Records that are held in memory until their turn: of one tenant, and of all.
_TENANT_WAITING = 16
_ALL_WAITING = 256
_TEXTS = {"messages", "tools", "prompt", "answer", "correction", "labels"}


class Redactor:
    """Replaces what `scanner` finds in records, as `mode` says.

    One record at a time, in one thread, so that whatever is recorded takes at most its share of a
    core from the streams; tenants go round-robin.
    """

    def __init__(self, scanner: Scanner, mode: Mode) -> None:
        self._scanner = scanner
        self._mode = mode
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feedback")
        self._turns = Turns(
            1,
            max_waiting=_TENANT_WAITING,
            waiting="records of feedback to be rid of personal data",
            reason="FEEDBACK_WAITING",
        )
        self._waiting = 0
        self._closed = False

    async def redacted(self, record: FeedbackRecord, tenant: str) -> FeedbackRecord:
        """Return the record as it may be stored, with what was replaced counted.

        Raises ResourceExhausted (FEEDBACK_WAITING) if too many wait, what `Replacer.replace` does,
        InvalidArgument (NOT_REDACTABLE) for a call whose arguments cannot be redacted, and
        Unavailable once closed.
        """
        if self._waiting >= _ALL_WAITING:
            raise ResourceExhausted(
                f"{_ALL_WAITING} records of feedback wait already, the most that may",
                reason="FEEDBACK_WAITING",
                limit=_ALL_WAITING,
            )
        self._waiting += 1
        try:
            async with self._turns.turn(tenant):
                return await self._in_thread(record)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """End the thread; what waits for it fails."""
        self._closed = True
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, record: FeedbackRecord) -> FeedbackRecord:
        if self._closed:
            raise _closed()
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._thread, self._replaced, record)
        try:
            await asyncio.wait({work})
        finally:
            work.cancel()
        if work.cancelled():
            raise _closed()
        return work.result()

    def _replaced(self, record: FeedbackRecord) -> FeedbackRecord:
        content, counts = self._replace(record, _content(record))
        if not all(_is_object(function["arguments"]) for function in _functions(content)):
            # Where a number was replaced by a mark; the mark has room in a string.
            content = _content(record)
            for function in _functions(content):
                function["arguments"] = _with_strings_for_numbers(function["arguments"])
            content, counts = self._replace(record, content)
            if not all(_is_object(function["arguments"]) for function in _functions(content)):
                raise InvalidArgument(
                    "tool_calls",
                    "personal data in the arguments of a call cannot be replaced so that they"
                    " stay a JSON object",
                    reason="NOT_REDACTABLE",
                )
        stored = {**record.model_dump(), **content, "redactions": counts}
        return FeedbackRecord.model_validate(stored)

    def _replace(
        self, record: FeedbackRecord, content: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, int]]:
        from tailorbird.personal_data.replacing import Replacer

        # By its name, so that the same request again has the same stand-ins.
        replacer = Replacer(self._scanner, self._mode, record.name)
        texts, counts = replacer.replace(record_texts(content))
        put_texts(content, texts)
        return content, {str(kind): count for kind, count in sorted(counts.items())}


def _content(record: FeedbackRecord) -> dict[str, Any]:
    return record.model_dump(mode="json", include=_TEXTS)


def _functions(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for said in (*content["messages"], content["answer"], content["correction"] or {}):
        for call in said.get("tool_calls", ()):
            yield call["function"]


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _with_strings_for_numbers(arguments: str) -> str:
    return json.dumps(json.loads(arguments, parse_int=str, parse_float=str), ensure_ascii=False)


def _closed() -> Unavailable:
    return Unavailable("serving is stopping", reason="SHUTTING_DOWN")
