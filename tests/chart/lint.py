"""Lint the chart in every profile, strictly: `python -m tests.chart.lint`, in `make check`."""

from __future__ import annotations

import sys

from tests.chart.helm import PROFILES, lint, profile_values


def main() -> int:
    """Print what Helm finds, one finding a line; 1 if there is any."""
    findings = [
        f"{profile}: {finding}" for profile in PROFILES for finding in lint(profile_values(profile))
    ]
    for finding in findings:
        sys.stdout.write(finding + "\n")
    sys.stdout.write(f"chart: {len(PROFILES)} profiles linted, {len(findings)} findings\n")
    return 1 if findings or not PROFILES else 0


if __name__ == "__main__":
    sys.exit(main())
