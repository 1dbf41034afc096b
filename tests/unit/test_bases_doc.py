"""docs/bases.md says of each family what the tests and the table of servable bases say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailorbird.servable import NOT_ON_A_CPU, NOT_SERVED, why_not_served
from tests.families import ALONE, FAMILIES, PACKED

_DOC = Path(__file__).resolve().parents[2] / "docs" / "bases.md"


def rows() -> dict[str, list[str]]:
    lines = [line for line in _DOC.read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    return {name: rest for name, *rest in cells if name != "family"}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_table_says_how_a_family_is_trained_and_served(name: str) -> None:
    architecture, _, trained, served = rows()[name]
    how = "packed" if name in PACKED else "one by one" if name in ALONE else "refused"
    assert trained.startswith(how)
    assert served.startswith("no: ") == bool(why_not_served(architecture, "cpu"))
    assert (served == "") == (how == "refused")


def test_whatever_is_refused_stands_in_the_table() -> None:
    told = {architecture for architecture, *_ in rows().values()}
    assert told >= NOT_SERVED.keys() | NOT_ON_A_CPU.keys()
    assert rows().keys() == FAMILIES.keys()
