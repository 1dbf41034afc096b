"""What an adapter is to this replica: pure types."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """One version in the engine, under an id, name and path that no other ever has."""

    engine_id: int
    name: str
    path: Path
