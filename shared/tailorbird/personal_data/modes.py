"""What is done about personal data, and which of two ways is the stricter."""

from __future__ import annotations

from enum import StrEnum


class Mode(StrEnum):
    """What is done about what is found."""

    OFF = "off"
    """Nothing is looked for."""
    SCAN = "scan"
    """It is counted; texts stay as they are."""
    SUBSTITUTE = "substitute"
    """A stand-in of the same kind takes its place."""
    REDACT = "redact"
    """A mark like <EMAIL> takes its place."""
    REFUSE = "refuse"
    """The whole is refused."""

    @property
    def rewrites(self) -> bool:
        """Tell whether texts are changed."""
        return self in (Mode.SUBSTITUTE, Mode.REDACT)

    def is_weaker_than(self, other: Mode) -> bool:
        """Tell whether less is done than `other` does; substitute and redact do as much."""
        return _STRICTNESS[self] < _STRICTNESS[other]


_STRICTNESS = {
    Mode.OFF: 0,
    Mode.SCAN: 1,
    Mode.SUBSTITUTE: 2,
    Mode.REDACT: 2,
    Mode.REFUSE: 3,
}
