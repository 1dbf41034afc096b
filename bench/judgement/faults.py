"""What is planted, what the product says, and whether it named what was planted. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Found:
    """Something that the product said of data or of a version: its typed reason, and the text."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that was planted, and what names it: a reason, and `says` within its message."""

    what: str
    reason: str
    says: str = ""

    def is_named_by(self, found: Found) -> bool:
        """Tell whether this is what was said."""
        return found.reason == self.reason and self.says in found.message


@dataclass(frozen=True, slots=True)
class Checked:
    """A case that was put to the product: what was planted in it, and all that was said of it."""

    case: str
    faults: Sequence[Fault]
    found: Sequence[Found]

    def missed(self) -> list[Fault]:
        """Return what was planted and not named."""
        return [fault for fault in self.faults if not any(map(fault.is_named_by, self.found))]

    def unplanted(self) -> list[Found]:
        """Return what was said and not planted: a false alarm where nothing was."""
        return [
            one for one in self.found if not any(fault.is_named_by(one) for fault in self.faults)
        ]


def figures(planted: Iterable[Checked], clean: Iterable[Checked]) -> dict[str, Any]:
    """Return `planted`, `missed` and `false_alarms`, counted, with what they are made of.

    What is said of planted data beside what was planted may be its consequence and counts as no
    false alarm; it stands in `faults` all the same.
    """
    planted, clean = list(planted), list(clean)
    return {
        "planted": sum(len(one.faults) for one in planted),
        "missed": sum(len(one.missed()) for one in planted),
        "false_alarms": sum(len(one.unplanted()) for one in clean),
        "faults": [row for one in planted for row in _rows(one)],
        "said_beside": {one.case: [asdict(found) for found in one.unplanted()] for one in planted},
        "said_of_clean": {one.case: [asdict(found) for found in one.found] for one in clean},
    }


def table(told: Mapping[str, Any]) -> list[str]:
    """Return the faults of `figures` as the lines of a Markdown table."""
    lines = ["| planted | found as | said |", "|---|---|---|"]
    for row in told["faults"]:
        found = row["reason"] if row["found"] else f"NOT FOUND ({row['reason']})"
        lines.append(f"| {row['what']} | `{found}` | {_cell(row['message'])} |")
    return lines


def _rows(one: Checked) -> Iterable[dict[str, Any]]:
    for fault in one.faults:
        said = next((found.message for found in one.found if fault.is_named_by(found)), None)
        yield {
            "case": one.case,
            **asdict(fault),
            "found": said is not None,
            "message": said or "",
        }


_MOST = 120


def _cell(text: str) -> str:
    line = " ".join(text.split()).replace("|", "\\|")
    return line if len(line) <= _MOST else f"{line[: _MOST - 1]}…"
