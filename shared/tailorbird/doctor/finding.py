"""What one check has found, and what to do about it. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum


class Status(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """It works, or may; but hardly as it is meant."""
    FAILED = "failed"
    """What needs it does not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is, what was seen, and what to do, which is "" where it is ok."""

    subject: str
    status: Status
    found: str
    advice: str = ""

    def values(self) -> dict[str, str]:
        """Return it as JSON has it."""
        return {key: str(value) for key, value in asdict(self).items()}

    @classmethod
    def of(cls, values: Mapping[str, str]) -> Finding:
        """Return what `values` made the values of; KeyError or ValueError for others."""
        return cls(values["subject"], Status(values["status"]), values["found"], values["advice"])


def ok(subject: str, found: str) -> Finding:
    """Return that nothing is wrong."""
    return Finding(subject, Status.OK, found)


def warning(subject: str, found: str, advice: str) -> Finding:
    """Return what is worth a look."""
    return Finding(subject, Status.WARNING, found, advice)


def failed(subject: str, found: str, advice: str) -> Finding:
    """Return what does not work."""
    return Finding(subject, Status.FAILED, found, advice)
