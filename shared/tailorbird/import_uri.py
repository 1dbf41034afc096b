"""URIs to import from: one spelling for each place, tenants kept apart."""

from __future__ import annotations

import re

TENANT = "{tenant}"
"""Stands in a prefix for the id of the caller's tenant."""

EVERYONE = "*"
"""Stands for every tenant where prefixes are given by tenant; {tenant} is then in each of them."""

# No percent-encoding, query, user or port.
_PLAIN = re.compile(r"(file:///|(?:s3|gs|az)://)([A-Za-z0-9._=+-]+(?:/[A-Za-z0-9._=+-]+)*)/?")
_MAX_CHARS = 1024


def is_plain_uri(uri: str) -> bool:
    """Tell whether `uri` names a folder of a file, s3, gs or az store, and in one way only."""
    match = _PLAIN.fullmatch(uri) if len(uri) <= _MAX_CHARS else None
    return match is not None and not {".", ".."} & set(match[2].split("/"))


def is_plain_prefix(prefix: str) -> bool:
    """Tell whether `prefix` is plain, and a slash ends it."""
    return prefix.endswith("/") and is_plain_uri(prefix)


def is_import_prefix(prefix: str) -> bool:
    """Tell whether `prefix` gives each tenant a folder of its own.

    It is plain, {tenant} stands in it once and ends a part, and a slash ends it.
    """
    return (
        prefix.endswith("/")
        and prefix.count(TENANT) == prefix.count(f"{TENANT}/") == 1
        and is_plain_uri(prefix.replace(TENANT, "t"))
    )
