"""A job's data is prepared before the job exists: by a process of its own, killed with the call.

The service has neither torch nor transformers, and its interpreter is for its callers: what reads a
million records is elsewhere, gives way to workers, and is the first to go when memory is short.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from pydantic import ValidationError

from tailorbird.errors import (
    DataCorrupt,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    StoreUnavailable,
    TailorbirdError,
    Unavailable,
)
from tailorbird.local_disk import is_disk_full
from tailorbird.turns import Turns
from trainer_svc.dispatch.assignment import Assignments
from trainer_svc.jobs.model import Job, JobError
from trainer_svc.jobs.preflight import Preflight
from trainer_svc.protocol import TOKENISING_LOST, Check, Checked, WorkerSettings, encode

_MODULE = "trainer_svc.engine.preflight"
_AT_ONCE = 2
_WAITING = 4
"""Of one tenant."""
_SECONDS = 1800.0
"""Whoever waits behind has waited long enough."""
_MAX_LINE_BYTES = 2**20
_FOLDER = "preflight-"
_NO_ANSWER = "said what is no answer"
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # It would say that there is no torch.
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}
_ERRORS: Mapping[str, type[TailorbirdError]] = {
    each.__name__: each for each in (FailedPrecondition, DataCorrupt, Unavailable, StoreUnavailable)
}


class Preflights:
    """Checks the data of jobs that nobody has accepted.

    `settings` are a worker's, by the digest of the base. What a lost service left on disk is
    deleted at start.
    """

    def __init__(self, assignments: Assignments, settings: Mapping[str, WorkerSettings]) -> None:
        self._assignments = assignments
        self._settings = settings
        self._turns = Turns(
            _AT_ONCE,
            of_a_tenant=1,
            max_waiting=_WAITING,
            waiting="data to be checked",
            reason="TOO_MANY_CHECKS",
        )
        for scratch in {each.scratch_dir for each in settings.values()}:
            for left in Path(scratch).glob(f"{_FOLDER}*"):
                shutil.rmtree(left, ignore_errors=True)

    async def check(self, job: Job) -> Preflight:
        """Return what a worker's preparation of the job comes to; raises what that would end with.

        Also ResourceExhausted (TOO_MANY_CHECKS), FailedPrecondition (CHECK_TOO_LONG) and
        Unavailable (TOKENISING_LOST). A cancellation ends the process first.
        """
        assignment = await self._assignments.unleased(job)
        settings = self._settings[assignment.base_model_digest]
        async with self._turns.turn(job.name.tenant):
            folder = Path(settings.scratch_dir) / f"{_FOLDER}{uuid4().hex}"
            own = settings.model_copy(update={"scratch_dir": str(folder)})
            try:
                await asyncio.to_thread(folder.mkdir, parents=True)
                async with asyncio.timeout(_SECONDS):
                    answer = await _asked(Check(settings=own, assignment=assignment))
            except TimeoutError as error:
                raise FailedPrecondition(
                    f"the data could not be read within {_SECONDS:g} s: create the job without "
                    "validate_only, whose worker takes its time",
                    reason="CHECK_TOO_LONG",
                    seconds=f"{_SECONDS:g}",
                ) from error
            except OSError as error:
                raise _not_started(error) from error
            finally:
                await asyncio.shield(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True))
        return _result(answer)


async def _asked(check: Check) -> bytes:
    """Have the check done by a process of its own, which is gone when this returns.

    Raises OSError if it cannot be started.
    """
    ours, theirs = socket.socketpair()
    process = writer = None
    try:
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", _MODULE, str(theirs.fileno())),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                env={**os.environ, **_ENVIRONMENT},
                start_new_session=True,
            )
        reader, writer = await asyncio.open_connection(sock=ours, limit=_MAX_LINE_BYTES)
        # RuntimeError is what uvloop says of a socket that is closed by now.
        with suppress(OSError, RuntimeError):
            # One that takes nothing has ended, and its answer tells.
            writer.write(encode(check))
            await writer.drain()
            line = await _line(reader)
            if line.endswith(b"\n"):
                return line
        raise _lost(f"ended with status {await process.wait()}")
    finally:
        (writer or ours).close()
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await asyncio.shield(process.wait())


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ValueError as error:
        raise _lost(_NO_ANSWER) from error


def _result(line: bytes) -> Preflight:
    try:
        answer = Checked.model_validate_json(line)
    except ValidationError as error:
        raise _lost(_NO_ANSWER) from error
    if answer.preflight is not None:
        return answer.preflight
    if answer.error is None:
        raise _lost(_NO_ANSWER)
    raise _error(answer.kind, answer.error)


def _error(kind: str, told: JobError) -> TailorbirdError:
    metadata = dict(told.metadata)
    if kind == InvalidArgument.__name__:
        field = metadata.pop("field")
        message = told.message.removeprefix(f"{field}: ")
        return InvalidArgument(field, message, reason=told.reason, **metadata)
    if kind == NotFound.__name__:
        return NotFound(metadata["name"], reason=told.reason)
    # Whatever else the tree has is no fault of the job.
    return _ERRORS.get(kind, Unavailable)(told.message, reason=told.reason, **metadata)


def _not_started(error: OSError) -> Unavailable:
    if is_disk_full(error):
        return Unavailable("the trainer's disk is full", reason="DISK_FULL")
    return _lost(f"cannot be started: {error.strerror}")


def _lost(what: str) -> Unavailable:
    return Unavailable(f"the process that checks the data {what}", reason=TOKENISING_LOST)
