"""How the story is told: numbered steps, tables, and checks collected on the way."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True, slots=True)
class Check:
    """Something that must hold, and what was found."""

    claim: str
    holds: bool
    found: str


class Report:
    """Prints the story and remembers its checks."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.checks: list[Check] = []
        self._steps = 0
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the story began."""
        return time.monotonic() - self._start

    def step(self, title: str) -> None:
        """Begin the next step."""
        self._steps += 1
        self.console.print()
        head = Text(f"{self._steps}. {title}", style="bold cyan")
        self.console.print(head.append(f"  ({self.seconds:.0f} s)", style="dim"), soft_wrap=True)

    def say(self, text: str, style: str = "") -> None:
        """Print a line."""
        self.console.print(Text(f"   {text}", style=style), soft_wrap=True)

    def command(self, text: str) -> None:
        """Print what one would type for the same."""
        self.say(f"$ {text}", "dim")

    def table(self, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print a table."""
        table = Table(box=None, pad_edge=True, padding=(0, 2), header_style="bold")
        for head in heads:
            table.add_column(head, overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self.console.print(table)

    def check(self, claim: str, holds: bool, found: str) -> None:
        """Remember whether something held."""
        self.checks.append(Check(claim, holds, found))
        if not holds:
            self.say(f"✗ {claim}: {found}", "bold red")

    def conclude(self) -> bool:
        """Print every check and return whether all held."""
        self.step("Checks")
        for check in self.checks:
            mark, style = ("✓", "green") if check.holds else ("✗", "bold red")
            line = Text(f"   {mark} {check.claim}", style=style)
            self.console.print(line.append(f"  {check.found}", style="dim"), soft_wrap=True)
        return all(check.holds for check in self.checks)
