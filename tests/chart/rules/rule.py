"""The list of all rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.chart.helm import Rendered

Rule = Callable[[Rendered], Iterator[str]]
RULES: dict[str, Rule] = {}


def rule(check: Rule) -> Rule:
    """Add a function to the rules, by its name."""
    RULES[check.__name__] = check
    return check
