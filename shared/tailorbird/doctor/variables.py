"""Environment variables that nothing reads, for their names are misspelt."""

from __future__ import annotations

import ast
import difflib
import functools
import os
import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

from tailorbird.doctor.finding import Finding, ok, warning

_PREFIX = "TAILORBIRD_"
_PACKAGES = ("tailorbird", "trainer_svc", "serving_svc")
_LITERAL = re.compile(rf"[\"']({_PREFIX}[A-Z0-9_]+)[\"']")
# What Kubernetes tells of Services whose names begin so: TAILORBIRD_TRAINER_PORT=tcp://10.0.0.1:…
_LINK = re.compile(r"_(SERVICE_(HOST|PORT.*)|PORT_\d+_(TCP|UDP).*)$")
_LINK_VALUE = re.compile(r"(tcp|udp)://")
_NEAR = 0.75


def variables(environ: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Tell of each variable that was meant for tailorbird and that nothing reads."""
    known = known_variables()
    count, all_known = 0, True
    for name, value in sorted(environ.items()):
        upper = name.upper()
        if upper in known:
            count += 1
        elif not _LINK.search(upper) and not _LINK_VALUE.match(value):
            meant = _meant(upper, known)
            if meant is not None:
                all_known = False
                told = f"set it as {meant}" if meant else "docs/reference/settings.md has them all"
                yield warning("variables", f"{name} is read by nothing", told)
    if all_known:
        yield ok("variables", f"{count} of tailorbird's are set, and each of them is read")


@functools.cache
def known_variables() -> frozenset[str]:
    """Return the names of all variables that any part of tailorbird reads.

    Read from the sources, which an installation has: the services' settings cannot be imported
    where their extras are not installed.
    """
    known: set[str] = set()
    for file in _sources():
        text = file.read_text(encoding="utf-8")
        known.update(_LITERAL.findall(text))
        if file.name == "settings.py":
            known.update(_settings(text))
    return frozenset(known)


def _meant(name: str, known: frozenset[str]) -> str | None:
    """Return the variable that a name was meant for; "" if none is near, None if it is not ours."""
    if not name.startswith(_PREFIX):
        first, _, rest = name.partition("_")
        near = difflib.SequenceMatcher(None, first, _PREFIX.rstrip("_")).ratio() >= _NEAR
        if near and rest:
            return _nearest(f"{_PREFIX}{rest}", known)
        # TRAINER_PORT, SERVING_BASE_MODEL: a setting under its service's name.
        if first in ("TRAINER", "SERVING") and f"{_PREFIX}{rest}" in known:
            return f"{_PREFIX}{rest}"
        return None
    return _nearest(name, known)


def _nearest(name: str, known: frozenset[str]) -> str:
    words = {one.removeprefix(_PREFIX): one for one in known}
    near = difflib.get_close_matches(name.removeprefix(_PREFIX), words, 1, _NEAR)
    return words[near[0]] if near else ""


def _sources() -> Iterator[Path]:
    for package in _PACKAGES:
        spec = find_spec(package)
        for folder in spec.submodule_search_locations or () if spec else ():
            yield from Path(folder).rglob("*.py")


def _settings(text: str) -> Iterator[str]:
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef) and node.name.endswith("Settings"):
            for field in node.body:
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    yield f"{_PREFIX}{field.target.id.upper()}"
