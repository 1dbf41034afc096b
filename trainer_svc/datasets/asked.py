"""What a dataset is to be: how it is named, and what errors name where it comes from a URI."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tailorbird.errors import InvalidArgument, InvalidRecords
from tailorbird.names import DatasetName
from tailorbird.personal_data.modes import Mode
from tailorbird.records.formats import DatasetFormat

_STEM_CHARS = 50
_DIGEST_CHARS = 12


@dataclass(frozen=True)
class Asked:
    """A dataset that is asked for.

    `key` is what stand-ins for personal data depend on. `named` gives the name, once the digest of
    all that came is known. `format` and `size_bytes` are what is expected, None: anything.
    """

    tenant: str
    mode: Mode
    key: str
    named: Callable[[str], DatasetName]
    format: DatasetFormat | None = None
    size_bytes: int | None = None
    source_uri: str = ""
    filename: str = ""


def id_of(uri: str, sha256: str, mode: Mode) -> str:
    """Return the id of the dataset that a URI, or an upload's file name, becomes with this digest.

    Begins as the file's name does; another file, another URI or another mode has another.
    """
    stem = re.sub(r"[^a-z0-9]+", "-", uri.rpartition("/")[2].partition(".")[0].lower())
    of = hashlib.sha256(f"{uri}\n{sha256}\n{mode}".encode()).hexdigest()[:_DIGEST_CHARS]
    return f"{stem.strip('-')[:_STEM_CHARS].strip('-') or 'data'}-{of}"


@contextmanager
def named_as(field: str) -> Iterator[None]:
    """Name what is wrong with the file by `field`: no message of an upload has brought it."""
    names = {"chunk": field, "header.personal_data": "personal_data"}
    try:
        yield
    except InvalidRecords:
        # These name lines.
        raise
    except InvalidArgument as error:
        if error.field not in names:
            raise
        told = {key: value for key, value in error.metadata.items() if key != "field"}
        name = names[error.field]
        raise InvalidArgument(name, error.description, reason=error.reason, **told) from error
