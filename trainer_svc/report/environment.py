"""What all pages are made with: templates that escape what they are given, one style, its hash."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from trainer_svc.report import words
from trainer_svc.report.printable import printable

STYLE = Markup(files(__package__).joinpath("templates/page.css").read_text("utf-8"))  # noqa: S704
STYLE_DIGEST = b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
"""The hash of the style element's text, as a page's policy names it."""


def environment() -> Environment:
    """Return an environment for this room's templates; whoever makes it may add to it."""
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
        change=words.change,
        last_part=words.last_part,
        loss=words.loss,
        number=words.number,
        score=words.score,
        words=words.words,
    )
    made.globals.update(counted=words.counted, style=STYLE, style_digest=STYLE_DIGEST)
    return made


def _finished(value: object) -> object:
    return printable(value) if type(value) is str else value
