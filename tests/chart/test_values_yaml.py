"""values.yaml says of each key what it is for."""

from __future__ import annotations

import re
from itertools import pairwise

from tests.chart.helm import CHART

_KEY = re.compile(r"( *)([A-Za-z]\w*):(.*)")


def test_every_value_is_documented() -> None:
    """By a comment above it or above those it stands with, or above what it is a part of."""
    assert undocumented((CHART / "values.yaml").read_text()) == []


def test_every_setting_has_a_comment_of_its_own() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    inside = 0
    for above, line in pairwise(lines):
        indent = len(line) - len(line.lstrip())
        if line == "  config:":
            inside = indent + 2
        elif line.strip() and indent < inside:
            inside = 0
        elif inside and (match := _KEY.fullmatch(line)):
            assert above.strip().startswith("#"), line
            assert re.match(r" null  # \S", match[3]), f"{line}: does not say its default"


def test_a_value_without_a_comment_is_found() -> None:
    text = """
# What a is for.
a:
  b: 1
  # What c is.
  c: 2
  d: 3

e:
  f: 4
  # What g is.
  g: 5
"""
    assert undocumented(text) == ["e.f"]


def undocumented(text: str) -> list[str]:
    """Return the paths of values that nothing is said of."""
    found: list[str] = []
    path: dict[int, tuple[str, bool]] = {}
    lines = text.splitlines()
    above = ""
    for number, line in enumerate(lines):
        if match := _KEY.fullmatch(line):
            indent = len(match[1])
            beside = path.get(indent, ("", False))[1] and bool(_KEY.fullmatch(above))
            path = {at: each for at, each in path.items() if at < indent}
            said = (
                above.strip().startswith("#")
                or "  #" in match[3]
                or beside
                or any(known for _, known in path.values())
            )
            path[indent] = (match[2], said)
            following = lines[number + 1] if number + 1 < len(lines) else ""
            opens = not match[3].strip() and len(following) - len(following.lstrip()) > indent
            if not said and not opens:
                found.append(".".join(name for name, _ in path.values()))
        above = line
    return found
