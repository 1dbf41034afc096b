"""Patterns of a tenant's JSON schema: how large they are when they are compiled.

What is repeated n times or more is compiled n + 1 times: a dozen characters, or repeats within
repeats, take all memory there is, or more of the stack than a process has.
"""

from __future__ import annotations

import re

MAX_PARTS = 50_000
"""Of all patterns of a schema, as compiled: some tens of MiB."""

_TOKEN = re.compile(
    r"(?P<one>\(|\)|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.)(?P<least>\+|\{(?P<count>\d+))?", re.DOTALL
)
_MOST_DIGITS = 6
_OTHER_SYNTAX = re.compile(r"\(\?(?:#|[A-Za-z0-9-]*[xV])")
"""Comments, and flags after which brackets and blanks mean something else."""


def parts(pattern: str) -> int:
    """Return how many parts a pattern has at most when it is compiled.

    Raises ValueError for what the pattern language of JSON schemas, ECMA-262's, has not and which
    would make this count another, and for brackets that do not match.
    """
    sizes = [0]
    for token in _TOKEN.finditer(pattern):
        one = token["one"]
        if one == "(":
            if _OTHER_SYNTAX.match(pattern, token.start()):
                raise ValueError("comments and the flags x and V are not supported")
            sizes.append(1)
            continue
        inner = 1
        if one == ")":
            if len(sizes) == 1:
                raise ValueError("a bracket is closed that was not opened")
            inner = sizes.pop()
        elif one == "[":
            raise ValueError("a set is not closed")
        elif one.startswith("[") and "[:" in one[1:]:
            raise ValueError("[: within a set is not supported")
        sizes[-1] += inner * _times(token)
    if len(sizes) > 1:
        raise ValueError("a bracket is not closed")
    return sizes[0]


def _times(token: re.Match[str]) -> int:
    """Return how many times what the token ends is compiled."""
    if token["count"] is None:
        return 2 if token["least"] else 1
    return int(token["count"]) + 1 if len(token["count"]) <= _MOST_DIGITS else MAX_PARTS + 1
