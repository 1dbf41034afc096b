"""Every rule over every profile, and for every rule what breaks it."""

from __future__ import annotations

import pytest

from tests.chart.conftest import rendered_profile
from tests.chart.helm import Rendered
from tests.chart.rules import running, security, wiring
from tests.chart.rules.breaks import BREAKS, Change, broken
from tests.chart.rules.rule import RULES

assert all((running, security, wiring))

BROKEN = [(name, changes) for name, breaks in BREAKS.items() for changes in breaks]


@pytest.mark.parametrize("name", RULES)
def test_the_profile_keeps_the_rule(rendered: Rendered, name: str) -> None:
    assert list(RULES[name](rendered)) == []


def test_each_rule_has_something_that_breaks_it() -> None:
    assert BREAKS.keys() == RULES.keys()


@pytest.mark.parametrize(
    ("name", "changes"), BROKEN, ids=[f"{name}-{n}" for n, (name, _) in enumerate(BROKEN)]
)
def test_the_rule_finds_what_breaks_it(name: str, changes: tuple[Change, ...]) -> None:
    good = rendered_profile("replicated")
    assert list(RULES[name](good)) == []

    assert list(RULES[name](broken(good, *changes))) != []
