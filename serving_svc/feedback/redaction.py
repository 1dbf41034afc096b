"""Rids records of personal data: in a process of its own, tenants in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from serving_svc.feedback.apart import RedactionProcess, stopping
from tailorbird.errors import ResourceExhausted
from tailorbird.feedback import FeedbackRecord
from tailorbird.personal_data.modes import Mode
from tailorbird.pieces import Done, some
from tailorbird.turns import Turns

if TYPE_CHECKING:
    from tailorbird.personal_data.scanner import Scanner

# Records that are held in memory until their turn: of one tenant, and of all.
_TENANT_WAITING = 16
_ALL_WAITING = 256
_WAITING = "FEEDBACK_WAITING"

_Work = Generator[None, None, FeedbackRecord]


class Redactor:
    """Replaces what the scanner that `scanner` makes finds in records, as `mode` says.

    In one process that streams go before, so that whatever is recorded takes at most its share of a
    core from them; of each tenant one record at a time, a piece of it, and then it is the next
    tenant's turn.
    """

    def __init__(self, scanner: Callable[[], Scanner], mode: Mode) -> None:
        self._process = RedactionProcess(scanner, mode)
        # What it runs waits for the process.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feedback")
        self._records = Turns(
            _ALL_WAITING,
            max_waiting=_TENANT_WAITING,
            of_a_tenant=1,
            waiting="records of feedback to be rid of personal data",
            reason=_WAITING,
        )
        # Of one record of each tenant.
        self._pieces = Turns(1, waiting="pieces of records of feedback", reason=_WAITING)
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
        `RedactionProcess.redacting` does.
        """
        if self._waiting >= _ALL_WAITING:
            raise ResourceExhausted(
                f"{_ALL_WAITING} records of feedback wait already, the most that may",
                reason=_WAITING,
                limit=_ALL_WAITING,
            )
        self._waiting += 1
        try:
            async with self._records.turn(tenant):
                return await self._in_pieces(record, tenant)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """End the process; what waits for it fails."""
        self._closed = True
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._process.close()

    async def _in_pieces(self, record: FeedbackRecord, tenant: str) -> FeedbackRecord:
        work = self._process.redacting(record)
        try:
            while True:
                async with self._pieces.turn(tenant):
                    done = await self._in_thread(work)
                if done is not None:
                    return done.result
        finally:
            if not self._closed:
                # Behind the piece that the thread may be at.
                self._thread.submit(work.close)

    async def _in_thread(self, work: _Work) -> Done[FeedbackRecord] | None:
        if self._closed:
            raise stopping()
        piece = asyncio.get_running_loop().run_in_executor(self._thread, some, work, 0)
        try:
            await asyncio.wait({piece})
        finally:
            piece.cancel()
        if piece.cancelled():
            raise stopping()
        return piece.result()
