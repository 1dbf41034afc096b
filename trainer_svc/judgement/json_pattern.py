"""Patterns of a tenant's JSON schema: how large they are when they are compiled.

A part that is repeated once or more is compiled twice, and three times where it is repeated twice
or more: of repeats within repeats, a hundred characters take all memory there is.
"""

from __future__ import annotations

import re

MAX_PARTS = 50_000
"""Of all patterns of a schema, as compiled: some tens of MiB."""

_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(|\)[+{]?|.", re.DOTALL)
_TIMES = {")": 1, ")+": 2, "){": 3}
_OTHER_SYNTAX = re.compile(r"\(\?(?:#|[A-Za-z0-9-]*[xV])")
"""Comments, and flags after which brackets and blanks mean something else."""


def parts(pattern: str) -> int:
    """Return how many parts a pattern has at most when it is compiled.

    Raises ValueError for what the pattern language of JSON schemas, ECMA-262's, has not and which
    would make this count another, and for brackets that do not match.
    """
    sizes = [0]
    for token in _TOKEN.finditer(pattern):
        text = token.group()
        if text == "(":
            if _OTHER_SYNTAX.match(pattern, token.start()):
                raise ValueError("comments and the flags x and V are not supported")
            sizes.append(1)
        elif text in _TIMES:
            if len(sizes) == 1:
                raise ValueError("a bracket is closed that was not opened")
            inner = sizes.pop()
            sizes[-1] += inner * _TIMES[text]
        elif text == "[":
            raise ValueError("a set is not closed")
        elif text.startswith("[") and "[:" in text[1:]:
            raise ValueError("[: within a set is not supported")
        else:
            sizes[-1] += 1
    if len(sizes) > 1:
        raise ValueError("a bracket is not closed")
    return sizes[0]
