"""Refuses structures that cannot be compiled, or not in time, before the engine sees them.

The engine compiles a structure in its own process, where what does not end, eats the memory or
brings the compiler down would be every tenant's. So it is compiled first in a small process of ours
that may be killed: `structure_check`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import cast

from serving_svc.generation.model import Structure
from tailorbird.errors import InvalidArgument

_COMMAND = ("-m", "serving_svc.engine.structure_check")
# The process ends itself by its CPU time; this is for one that waits for a CPU, or for nothing.
_WALL_SECONDS = 20.0
_LINE_BYTES = 8 * 2**20
_KEPT = 256


@dataclass(frozen=True, slots=True)
class _Verdict:
    error: str
    value: str


@dataclass(slots=True)
class _Turn:
    """A tenant's place at the one process: others of the same tenant wait behind it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class StructureChecker:
    """Compiles structures in a process of its own, one at a time, and remembers the verdicts.

    Each tenant has one structure at the process or in the line for it, so a tenant with a thousand
    new ones delays another's by one of them. The process is started when it is first needed, and
    again after it was killed.
    """

    def __init__(self, wall_seconds: float = _WALL_SECONDS) -> None:
        self._wall_seconds = wall_seconds
        self._process: Process | None = None
        self._line = asyncio.Lock()
        self._turns: dict[str, _Turn] = {}
        self._verdicts: OrderedDict[bytes, _Verdict] = OrderedDict()

    async def check(self, structure: Structure, tenant: str) -> Structure:
        """Return `structure` as the engine is given it; InvalidArgument if it cannot be used."""
        key = _key(structure)
        verdict = self._verdicts.get(key)
        if verdict is None:
            verdict = await self._in_turn(structure, key, tenant)
        else:
            self._verdicts.move_to_end(key)
        if verdict.error:
            raise InvalidArgument(
                f"sampling.{structure.kind}", verdict.error, reason="INVALID_STRUCTURE"
            )
        return replace(structure, value=verdict.value)

    async def close(self) -> None:
        """End the process."""
        async with self._line:
            await self._kill()

    async def _in_turn(self, structure: Structure, key: bytes, tenant: str) -> _Verdict:
        turn = self._turns.setdefault(tenant, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                found = self._verdicts.get(key)
                if found is not None:
                    return found
                async with self._line:
                    verdict = await self._verdict(structure)
                self._verdicts[key] = verdict
                if len(self._verdicts) > _KEPT:
                    self._verdicts.popitem(last=False)
                return verdict
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[tenant]

    async def _verdict(self, structure: Structure) -> _Verdict:
        request = {
            "kind": structure.kind,
            "value": structure.value,
            "choices": list(structure.choices),
        }
        answered = False
        try:
            process = await self._running()
            to_process = cast("asyncio.StreamWriter", process.stdin)
            from_process = cast("asyncio.StreamReader", process.stdout)
            answer = b""
            with suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(self._wall_seconds):
                    to_process.write(json.dumps(request).encode() + b"\n")
                    await to_process.drain()
                    answer = await from_process.readline()
            answered = answer.endswith(b"\n")
        finally:
            # Cancelled meanwhile, it would answer the next question with this one's answer.
            if not answered:
                await self._kill()
        if not answered:
            return _Verdict("it takes too much time or memory to compile", "")
        return _Verdict(**json.loads(answer))

    async def _running(self) -> Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *_COMMAND,
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,
                limit=_LINE_BYTES,
            )
        return self._process

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _key(structure: Structure) -> bytes:
    content = json.dumps([structure.kind, structure.value, structure.choices])
    return hashlib.sha256(content.encode()).digest()
