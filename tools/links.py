"""Usage: python -m tools.links. Fails where a Markdown file links to what is not in the repository.

Of links to other sites nothing is checked: they need a network.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token

_ROOT = Path(__file__).parents[1]
_PARSER = MarkdownIt("commonmark").enable("table")


def main() -> int:
    """Print each broken link; return 1 if there is one."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.md"],
        cwd=_ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    pages = [_ROOT / name for name in listed.stdout.splitlines() if (_ROOT / name).exists()]
    broken = [line for page in pages for line in broken_links(page, _ROOT)]
    print("\n".join(broken) or f"links of {len(pages)} Markdown files lead somewhere")
    return 1 if broken else 0


def broken_links(page: Path, root: Path) -> list[str]:
    """Return a line for each link of `page` to no file or heading under `root`."""
    found = []
    for line, target in _links(_PARSER.parse(page.read_text(encoding="utf-8"))):
        where = f"{page.relative_to(root)}:{line}: {target}"
        parts = urlsplit(target)
        if parts.scheme or parts.netloc:
            continue
        path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        if not path.is_relative_to(root) or not path.exists():
            found.append(f"{where}: there is no such file")
        elif parts.fragment and path.suffix == ".md" and parts.fragment not in anchors(path):
            found.append(f"{where}: {path.relative_to(root)} has no such heading")
    return found


def anchors(page: Path) -> set[str]:
    """Return what headings of a page can be linked to by, as GitHub and MyST name them."""
    tokens = _PARSER.parse(page.read_text(encoding="utf-8"))
    seen: dict[str, int] = {}
    for token, inline in pairwise(tokens):
        if token.type == "heading_open":
            text = "".join(child.content for child in inline.children or ()).lower()
            slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
            number = seen.get(slug, 0)
            seen[slug] = number + 1
            if number:
                seen[f"{slug}-{number}"] = 1
    return set(seen)


def _links(tokens: list[Token]) -> Iterator[tuple[int, str]]:
    for token in tokens:
        line = token.map[0] + 1 if token.map else 0
        for child in token.children or ():
            target = child.attrGet("href") or child.attrGet("src")
            if target:
                yield line, str(target)


if __name__ == "__main__":
    sys.exit(main())
