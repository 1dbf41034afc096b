"""Lint the chart in every profile, strictly: `python -m tests.chart.lint`, in `make check`.

Each is rendered too: for Helm's linter a template's `fail` is no failure.
"""

from __future__ import annotations

import sys

import helm_python

from tests.chart.helm import PROFILES, Values, lint, profile_values, render


def findings_of(values: Values) -> list[str]:
    """Return what is wrong with the chart and these values, a line each."""
    found = lint(values)
    if not found:
        try:
            render(values)
        except helm_python.HelmError as error:
            found = [" ".join(str(error).split())]
    return found


def main() -> int:
    """Print what is found, one finding a line; 1 if there is anything."""
    findings = [
        f"{profile}: {finding}"
        for profile in PROFILES
        for finding in findings_of(profile_values(profile))
    ]
    for finding in findings:
        sys.stdout.write(finding + "\n")
    sys.stdout.write(f"chart: {len(PROFILES)} profiles linted, {len(findings)} findings\n")
    return 1 if findings or not PROFILES else 0


if __name__ == "__main__":
    sys.exit(main())
