"""The driver of the job store's URL, checked before anything is opened.

What else it holds is not told: a password. Whoever opens it parses the rest.
"""

from __future__ import annotations

import re

DRIVERS = ("postgresql+asyncpg", "sqlite+aiosqlite")
_EXPECTED = (
    "postgresql+asyncpg://USER:PASSWORD@HOST:5432/DATABASE or sqlite+aiosqlite:////PATH is expected"
)
# What cannot be a part of a secret that was written in the wrong place.
_TOLD = re.compile(r"(postgres|postgresql|sqlite|mysql|mariadb|mssql|oracle)(\+[a-z0-9_]{1,20})?")


def checked_database_url(url: str) -> str:
    """Return `url`, which may be empty. Raises ValueError, with what is expected."""
    if not url:
        return url
    scheme, found, _ = url.partition("://")
    if not found:
        raise ValueError(f"it is no URL: {_EXPECTED}")
    if scheme not in DRIVERS:
        named = f"{scheme}:// cannot be used" if _TOLD.fullmatch(scheme) else "it cannot be used"
        raise ValueError(f"{named}: {_EXPECTED}")
    return url
