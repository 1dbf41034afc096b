"""What the load asks for and what became of it: plain values that travel as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from bench.serving.swap_load import judge

Method = Literal["Generate", "StreamGenerate"]
Fault = Literal["", "refused", "cut_short", "wrong"]


@dataclass(frozen=True, slots=True)
class Target:
    """A model that one tenant asks, and how its answers are known."""

    model: str
    """tenants/{tenant}/adapters/{adapter}, or tenants/{tenant} for the base."""
    token: str
    version: str = ""
    """The version that must answer; "" for the base."""
    marker: str = ""
    """What that version answers; the base's answers have a length only."""


@dataclass(frozen=True, slots=True)
class Shot:
    """One request of the load."""

    target: Target
    method: Method
    tokens: int
    """At most; of the base exactly."""
    is_long: bool = False


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """A constant load: so many requests a second, whatever becomes of them."""

    address: str
    requests_per_second: float
    question: str
    targets: tuple[Target, ...]
    tokens: int
    long_tokens: int

    def to_json(self) -> str:
        """Return one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Read what `to_json` gave."""
        told = json.loads(line)
        return cls(**{**told, "targets": tuple(Target(**one) for one in told["targets"])})

    def shots(self) -> Sequence[Shot]:
        """Return what is sent in turn, over and over: every target by either method, twice.

        And a long stream of each target that is the base.
        """
        methods: tuple[Method, Method] = ("Generate", "StreamGenerate")
        short = [Shot(target, method, self.tokens) for method in methods for target in self.targets]
        long = [
            Shot(target, "StreamGenerate", self.long_tokens, is_long=True)
            for target in self.targets
            if not target.marker
        ]
        return short + short + long


@dataclass(slots=True)
class Asked:
    """One request's course. Times are seconds on the machine's monotonic clock."""

    number: int
    model: str
    method: Method
    is_long: bool
    begin: float
    end: float = 0.0
    fault: Fault = ""
    why: str = ""
    """With a fault: the status' code, reason and text, or what was answered."""


def asked_from(told: Sequence[Mapping[str, Any]]) -> list[Asked]:
    """Read requests that have travelled as JSON."""
    return [Asked(**one) for one in told]


@dataclass(slots=True)
class Heard:
    """What came back for one request."""

    version: str = ""
    text: str = ""
    stopped: bool = False
    """The model itself ended the answer."""
    at_limit: bool = False
    tokens: int = 0


def fault_of(shot: Shot, heard: Heard) -> Fault:
    """Say what is wrong with an answer that came without an error."""
    target = shot.target
    if heard.version != target.version:
        return "wrong"
    if target.marker:
        told = judge(target.marker, heard.text, heard.stopped)
        return {"": "", "truncated": "cut_short", "mismatched": "wrong"}[told]  # type: ignore[return-value]
    whole = heard.at_limit and heard.tokens == shot.tokens and heard.text != ""
    return "" if whole else "cut_short"
