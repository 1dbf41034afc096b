"""What a load child is asked to do and what it answers: plain values that travel as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Ask:
    """One streaming request of `tenant`, to its adapter of the bench or to the base model."""

    tenant: str
    adapted: bool
    prompt: str
    max_tokens: int
    chat: bool = False
    """Whether the prompt is a user's message instead."""


@dataclass(frozen=True, slots=True)
class Group:
    """Streams that begin together; each sends its requests one after the other."""

    name: str
    streams: tuple[tuple[Ask, ...], ...]
    repeat_seconds: float = 0.0
    """Above 0: a stream begins again with its first request until this long after the start."""
    delay: float = 0.0
    """Seconds before the first request of each stream."""
    pause: float = 0.0
    """Seconds between two requests of a stream."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One cell: all its groups run at the same time."""

    groups: tuple[Group, ...]
    limit_seconds: float
    """The cell is an error when it takes longer."""
    server_pid: int = 0
    """Root of the process tree whose CPU time is counted. 0: this child's own."""

    def to_json(self) -> str:
        """Return one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Plan:
        """Read what `to_json` gave."""
        told = json.loads(line)
        groups = tuple(
            Group(**{**group, "streams": tuple(map(_asks, group["streams"]))})
            for group in told["groups"]
        )
        return cls(groups, told["limit_seconds"], told["server_pid"])


@dataclass(slots=True)
class Answer:
    """One request's course. Times are seconds on the child's monotonic clock."""

    group: str
    start: float = 0.0
    end: float = 0.0
    times: list[float] = field(default_factory=list)
    """When each message that carries text arrived."""
    tokens: int = 0
    """Generated, as the server's usage says."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class CellResult:
    """What one cell gave."""

    cpu_seconds: float
    """User and system time of the server's whole process tree."""
    answers: tuple[Answer, ...]

    def to_json(self) -> str:
        """Return one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_told(cls, told: Mapping[str, Any]) -> CellResult:
        """Read what `to_json` gave, parsed."""
        return cls(told["cpu_seconds"], tuple(Answer(**answer) for answer in told["answers"]))


def _asks(stream: list[dict[str, Any]]) -> tuple[Ask, ...]:
    return tuple(Ask(**ask) for ask in stream)
