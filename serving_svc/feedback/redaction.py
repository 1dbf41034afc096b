"""Rids records of personal data: in a process of its own, tenants in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from serving_svc.feedback.apart import RedactionProcess, stopping
from tailorbird.errors import ResourceExhausted
from tailorbird.feedback import FeedbackRecord
from tailorbird.personal_data.modes import Mode
from tailorbird.turns import Turns

if TYPE_CHECKING:
    from tailorbird.personal_data.scanner import Scanner

# Records that are held in memory until their turn: of one tenant, and of all.
_TENANT_WAITING = 16
_ALL_WAITING = 256


class Redactor:
    """Replaces what the scanner that `scanner` makes finds in records, as `mode` says.

    One record at a time, in one process that streams go before, so that whatever is recorded takes
    at most its share of a core from them; tenants go round-robin.
    """

    def __init__(self, scanner: Callable[[], Scanner], mode: Mode) -> None:
        self._process = RedactionProcess(scanner, mode)
        # What it runs waits for the process.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feedback")
        self._turns = Turns(
            1,
            max_waiting=_TENANT_WAITING,
            waiting="records of feedback to be rid of personal data",
            reason="FEEDBACK_WAITING",
        )
        self._waiting = 0
        self._closed = False

    def start(self) -> None:
        """Start the process: the first record would. Blocking: seconds; raises what `scanner` does.

        Also Unavailable (REDACTION_LOST) if it cannot be started, or ends.
        """
        self._process.start()

    async def redacted(self, record: FeedbackRecord, tenant: str) -> FeedbackRecord:
        """Return the record as it may be stored, with what was replaced counted.

        Raises ResourceExhausted (FEEDBACK_WAITING) if too many wait, and what
        `RedactionProcess.redacted` does.
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
        """End the process; what waits for it fails."""
        self._closed = True
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._process.close()

    async def _in_thread(self, record: FeedbackRecord) -> FeedbackRecord:
        if self._closed:
            raise stopping()
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._thread, self._process.redacted, record)
        try:
            await asyncio.wait({work})
        finally:
            work.cancel()
        if work.cancelled():
            raise stopping()
        return work.result()
