"""A worker that is told and heard through a child process."""

from __future__ import annotations

import asyncio

from pydantic import TypeAdapter, ValidationError

from tailorbird.errors import FailedPrecondition
from trainer_svc.dispatch.child import Child
from trainer_svc.dispatch.executor import WorkerLost
from trainer_svc.protocol import (
    REPORT,
    Alive,
    Cancel,
    Lost,
    Ready,
    Report,
    Start,
    Suspend,
    Unusable,
    Upload,
    encode,
)
from trainer_svc.record import Record

_LOST: TypeAdapter[Lost] = TypeAdapter(Lost)
_CLOSE_SECONDS = 5.0


class ProcessWorker:
    """See Worker. The process has `close_seconds` to end when its socket is closed."""

    def __init__(self, child: Child, *, close_seconds: float = _CLOSE_SECONDS) -> None:
        self.pid = child.pid
        self._child = child
        self._close_seconds = close_seconds

    async def begin(self, first: Record, seconds: float) -> Ready:
        """Send the first line, and wait until the worker has loaded its base.

        Raises WorkerLost if it dies, or is not ready in so many seconds, FailedPrecondition if it
        cannot load it. Whatever is raised, the process is gone.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._child.write(encode(first))
                ready = await self.receive()
        except TimeoutError as error:
            await self.close()
            raise WorkerLost(f"the worker process was not ready within {seconds:g} s") from error
        except BaseException:
            await self.close()
            raise
        if isinstance(ready, Ready):
            return ready
        await self.close()
        if isinstance(ready, Unusable):
            raise FailedPrecondition(
                ready.error.message, reason=ready.error.reason, setting="base_model"
            )
        raise WorkerLost(f"the worker process began with {ready.kind}")

    async def send(self, command: Start | Upload | Cancel | Suspend) -> None:
        """See Worker."""
        await self._child.write(encode(command))

    async def receive(self) -> Report:
        """See Worker."""
        while isinstance(said := await self._said(), Alive):
            # It was heard by now, and is of no job.
            pass
        return said

    async def _said(self) -> Alive | Report:
        line = await self._child.read()
        try:
            return REPORT.validate_json(line)
        except ValidationError as error:
            # Asked last: of a process of this machine it is never heard.
            lost = _lost(line)
            if lost is None:
                raise WorkerLost("the worker process sent what is no report") from error
        await self._child.ended()
        raise WorkerLost(
            lost.message, reason=lost.reason, from_outside=lost.from_outside, printed=lost.printed
        )

    async def close(self) -> None:
        """See Worker."""
        await self._child.close(self._close_seconds)


def _lost(line: bytes) -> Lost | None:
    try:
        return _LOST.validate_json(line)
    except ValidationError:
        return None
