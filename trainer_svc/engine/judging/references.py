"""What the operator holds every version against, read once a worker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainer_svc.datasets.general import read_general
from trainer_svc.engine.base import Base
from trainer_svc.engine.judging.general import General
from trainer_svc.judgement.safety import SafetyScreen
from trainer_svc.protocol import WorkerSettings


@dataclass(frozen=True)
class References:
    """Either may be missing."""

    general: General | None = None
    screen: SafetyScreen | None = None


def references(settings: WorkerSettings, base: Base) -> References:
    """Read what the settings name; InvalidArgument if it changed since the service's start."""
    path, lists = settings.general_data, settings.safety_lists
    return References(
        general=General(read_general(Path(path)), base) if path else None,
        screen=SafetyScreen.parse(lists, "safety_lists") if lists else None,
    )
