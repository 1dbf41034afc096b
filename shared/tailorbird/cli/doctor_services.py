"""The services' own checks for `doctor`: each a child process, with the service's own settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec

from tailorbird.cli.service_process import Part, Plan
from tailorbird.doctor.finding import Finding, failed, ok
from tailorbird.doctor.secrecy import hidden

_SECONDS = 90.0
_BOTH = "both services"
_SERVICE = ("obstore", "prometheus_client", "pydantic_settings")
_NEEDED = {"trainer": (*_SERVICE, "sqlalchemy", "torch"), "serving": (*_SERVICE, "vllm")}
# What an operator sets for services that are not started by `up`, which has its own.
_KEPT = ("TAILORBIRD_OBJECT_STORE", "TAILORBIRD_HOST")


@dataclass(slots=True)
class _Started:
    processes: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    absent: dict[str, list[Finding]] = field(default_factory=dict)
    until: float = field(default_factory=lambda: time.monotonic() + _SECONDS)

    def findings(self) -> dict[str, list[Finding]]:
        """Return each service's findings; what both say alike stands under both."""
        found = {name: self._of(name) for name in _NEEDED}
        trainer, serving = found["trainer"], found["serving"]
        alike = [one for one in trainer if one in serving]
        return {
            _BOTH: alike,
            "trainer": [one for one in trainer if one not in alike],
            "serving": [one for one in serving if one not in alike],
        }

    def _of(self, name: str) -> list[Finding]:
        if name in self.absent:
            return self.absent[name]
        process = self.processes[name]
        try:
            out, err = process.communicate(timeout=max(0.0, self.until - time.monotonic()))
            found = [Finding.of(one) for one in json.loads(out)]
        except subprocess.TimeoutExpired:
            told = f"its check has not ended within {_SECONDS:g} s: given up"
            return [failed(name, told, f"run it by itself: python -m {name}_svc check")]
        except (ValueError, KeyError, TypeError):
            last = [line for line in err.splitlines() if line.strip()][-1:] or ["no word"]
            told = f"its check broke (exit status {process.returncode}): {hidden(last[0])}"
            return [failed(name, told, f"run it by itself: python -m {name}_svc check")]
        # They are looked at once, as they are here.
        return [one for one in found if one.subject != "variables"]


@contextmanager
def services(plan: Plan) -> Iterator[_Started]:
    """Start the checks of the services whose extras are installed; none is left at the end."""
    started = _Started()
    try:
        for part in plan.services:
            missing = [name for name in _NEEDED[part.name] if find_spec(name) is None]
            if missing:
                told = f"not looked at: its extra is not installed here ({', '.join(missing)})"
                started.absent[part.name] = [ok(part.name, told)]
            else:
                started.processes[part.name] = subprocess.Popen(
                    [sys.executable, *part.command, "check", "--json"],
                    env=_environment(plan, part),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
        yield started
    finally:
        for process in started.processes.values():
            if process.poll() is None:
                process.kill()
            process.communicate()


def _environment(plan: Plan, part: Part) -> Mapping[str, str]:
    kept = {name: os.environ[name] for name in _KEPT if os.environ.get(name)}
    return {**plan.environment(part), **kept}
