"""How pages are made: templates that escape what they are given."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from tailorbird.console import words

STATIC = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
"""The files that pages ask for, and their types."""


@cache
def static(name: str) -> bytes:
    """Return one of the files in STATIC."""
    return files(__package__).joinpath("static", name).read_bytes()


def render(template: str, **values: Any) -> str:
    """Return what a template says of `values`, each text of which is escaped."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader(__package__, "templates"),
        autoescape=True,
        finalize=_finished,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update(
        data_format=words.data_format,
        iso=words.iso,
        last_part=words.last_part,
        number=words.number,
        place=words.place,
        policy=words.policy,
        seconds=words.seconds,
        share=words.share,
        size=words.size,
        state=words.state,
        tier=words.tier,
        when=words.when,
    )
    made.globals["static"] = _address
    return made


@cache
def _address(name: str) -> str:
    """Return where a file is; another address when its content changes, so that it can be kept."""
    return f"/static/{name}?v={hashlib.sha256(static(name)).hexdigest()[:12]}"


def _finished(value: object) -> object:
    # Not of what is HTML already: Markup is another type.
    return words.printable(value) if type(value) is str else value
