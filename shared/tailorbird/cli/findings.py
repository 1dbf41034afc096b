"""What checks have found, as a person reads it: a line each, and below it what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.text import Text

from tailorbird.cli.output import out, plain
from tailorbird.doctor.finding import Finding, Status

_STYLES = {Status.OK: "green", Status.WARNING: "yellow", Status.FAILED: "red"}
_WIDTH = max(map(len, Status))


def lines(findings: Iterable[Finding]) -> Iterator[str]:
    """Return the lines without colours."""
    for finding in findings:
        yield plain(f"{finding.status:<{_WIDTH}}  {finding.subject}: {finding.found}")
        if finding.advice:
            yield plain(f"{'':<{_WIDTH}}  → {finding.advice}")


def print_findings(findings: Iterable[Finding]) -> None:
    """Print the lines, the status in its colour."""
    for finding in findings:
        for line in lines([finding]):
            text = Text(line)
            text.stylize(_STYLES[finding.status], 0, _WIDTH)
            out.print(text, soft_wrap=True)
