"""Markdown of the reference's pages."""

from __future__ import annotations

import re

_WORD = re.compile(r"(?<![`\w/])([a-z][a-z0-9]*(?:_[a-z0-9]+)+|TAILORBIRD_[A-Z0-9_]+)(?![`\w/(])")


def begin(title: str, told: str, source: str) -> list[str]:
    """Return the first lines of a page; `source` is what it is made from."""
    return [f"# {title}", "", told, "", f"Made from {source} by `make reference`.", ""]


def paragraphs(text: str) -> str:
    """Return a comment or docstring with each paragraph in one line, identifiers as code."""
    blocks = re.split(r"\n\s*\n", text.strip())
    return "\n\n".join(marked(" ".join(block.split())) for block in blocks)


def marked(text: str) -> str:
    """Return `text` with what Markdown would act on escaped, and identifiers as code."""
    parts = text.split("`")
    for place in range(0, len(parts), 2):
        plain = re.sub(r"([*<>\[\]|])", r"\\\1", parts[place])
        parts[place] = _WORD.sub(r"`\1`", plain)
    return "`".join(parts)


def one_line(text: str) -> str:
    """Return `text` for a list item or a table's cell."""
    return " ".join(paragraphs(text).split())


def cell(text: str) -> str:
    """Return Markdown that stands in a table: a bar would end its column."""
    return re.sub(r"(?<!\\)\|", r"\\|", " ".join(text.split()))


def done(lines: list[str]) -> str:
    """Return a page of `lines`: one newline at its end, never two blank lines in a row."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines).strip()) + "\n"
