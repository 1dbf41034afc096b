"""Secrets of the environment, taken out of what is said: drivers quote what they were given."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from urllib.parse import unquote

_HIDDEN = "•••"
_NAMED = re.compile(r"SECRET|PASSW|TOKEN(?!S|IZER)|CREDENTIAL|_KEY|SAS|SIGNATURE", re.IGNORECASE)
# They say where a secret is.
_PLACES = re.compile(r"_(FILE|URI|URL|PATH|DIR)$", re.IGNORECASE)
_IN_URL = re.compile(r"(?<=://)([^/\s:@]*):([^/\s]+)@")
_IN_QUERY = re.compile(r"(?i)\b(password|sig|token|secret)=([^&\s'\"]+)")
_LEAST_CHARS = 4


def hidden(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """Return `text` without passwords in URLs, and without the secrets that `environ` holds."""
    for secret in sorted(set(_secrets(environ)), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", _HIDDEN, text)
    return _IN_QUERY.sub(rf"\1={_HIDDEN}", _IN_URL.sub(rf"\1:{_HIDDEN}@", text))


def _secrets(environ: Mapping[str, str]) -> Iterator[str]:
    for name, value in environ.items():
        found = [value.strip()] if _NAMED.search(name) and not _PLACES.search(name) else []
        if "://" in value:
            for pattern in (_IN_URL, _IN_QUERY):
                found += [match[1] for match in pattern.findall(value)]
        for secret in found:
            yield from (one for one in (secret, unquote(secret)) if len(one) >= _LEAST_CHARS)
