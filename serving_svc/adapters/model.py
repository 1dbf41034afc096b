"""What an adapter version is to this replica: pure types."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tailorbird.manifest import Probes
from tailorbird.names import VersionName


@dataclass(frozen=True, slots=True)
class StagedAdapter:
    """A version on local disk that has passed every check but the engine's own: size in bytes."""

    version: VersionName
    path: Path
    size: int
    probes: Probes


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """One version in the engine, under an id, name and path that no other ever has."""

    engine_id: int
    name: str
    path: Path
