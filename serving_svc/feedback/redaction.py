"""Rids records of personal data: in a thread of its own, tenants in turn."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from tailorbird.errors import ResourceExhausted, Unavailable
from tailorbird.feedback import FeedbackRecord
from tailorbird.personal_data.modes import Mode
from tailorbird.personal_data.record_texts import RecordTexts
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
        and Unavailable once closed.
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
        from tailorbird.personal_data.replacing import Replacer

        content = record.model_dump(mode="json", include=_TEXTS)
        texts = RecordTexts(content)
        # By its name, so that the same request again has the same stand-ins.
        replaced, counts = Replacer(self._scanner, self._mode, record.name).replace(texts.all)
        texts.put(replaced)
        redactions = {str(kind): count for kind, count in sorted(counts.items())}
        stored = {**record.model_dump(), **content, "redactions": redactions}
        return FeedbackRecord.model_validate(stored)


def _closed() -> Unavailable:
    return Unavailable("serving is stopping", reason="SHUTTING_DOWN")
