"""What a child process is told to be, and what it tells of a run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

from bench.training.sizes import Lora


class Kind(StrEnum):
    """Who takes the steps."""

    ENGINE = "engine"
    PEFT = "peft"
    TRL = "trl"


@dataclass(frozen=True, slots=True)
class Contender:
    """One side of a comparison. `number_format` is the peers'; the engine chooses its own."""

    kind: Kind
    base: Path
    workload: Path
    out: Path
    """A folder of its own."""
    threads: int
    number_format: str = ""
    lora: Lora = field(default_factory=Lora)

    def to_json(self) -> str:
        """Return the line for the child."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, line: str) -> Contender:
        """Return what `to_json` was called on."""
        told = json.loads(line)
        lora = told["lora"] | {"target_modules": tuple(told["lora"]["target_modules"])}
        paths = {name: Path(told[name]) for name in ("base", "workload", "out")}
        return cls(**{**told, **paths, "kind": Kind(told["kind"]), "lora": Lora(**lora)})
