"""Checks run side by side, each for so long and no longer; one that breaks is told as such."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from tailorbird.doctor.finding import Finding, failed
from tailorbird.doctor.secrecy import hidden
from tailorbird.errors import TailorbirdError

_MAX_TEXT = 500


@dataclass(frozen=True, slots=True)
class Check:
    """What is looked at, how, how long at most, and what it means if that is not enough."""

    subject: str
    look: Callable[[], Iterable[Finding]]
    seconds: float = 20.0
    stuck: str = "what it asks hangs: look at the network and the disk between"


@dataclass(slots=True)
class _Running:
    check: Check
    findings: list[Finding] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        try:
            self.findings = list(self.check.look())
        except TailorbirdError as error:
            self.findings = [failed(self.check.subject, error.message, "do as it says")]
        except Exception as error:
            # Anything at all: whoever asks what is wrong gets an answer to the rest.
            text = f"the check itself failed: {type(error).__name__}: {error}"
            self.findings = [failed(self.check.subject, text, "report it as a fault of tailorbird")]
        self.done.set()


class Begun:
    """Checks under way, all of them side by side."""

    def __init__(self, checks: Sequence[Check]) -> None:
        self._began = time.monotonic()
        self._running = [_Running(check) for check in checks]
        for one in self._running:
            threading.Thread(target=one.run, daemon=True).start()

    def findings(self) -> list[Finding]:
        """Return what the checks find, in their order, with no secret in it.

        One that takes longer than its seconds is left behind: its thread does not keep the process.
        """
        found: list[Finding] = []
        for one in self._running:
            check = one.check
            if one.done.wait(max(0.0, self._began + check.seconds - time.monotonic())):
                found += one.findings
            else:
                text = f"no answer within {check.seconds:g} s: given up"
                found.append(failed(check.subject, text, check.stuck))
        return [_clean(one) for one in found]


def looked_at(checks: Sequence[Check]) -> list[Finding]:
    """Begin checks, and return their findings; see `Begun`."""
    return Begun(checks).findings()


def _clean(finding: Finding) -> Finding:
    found = " ".join(hidden(finding.found).split())
    cut = f"{found[:_MAX_TEXT]}…" if len(found) > _MAX_TEXT else found
    return replace(finding, found=cut, advice=" ".join(hidden(finding.advice).split()))
