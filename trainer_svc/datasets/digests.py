"""A record's digests: by them duplicates and leaks are found, and the versions that saw a record.

Version 1: BLAKE2b of 16 bytes with the person `tailorbird-rec-1`, fed for each message its role, a
NUL, the length of its text in bytes (8, little-endian) and the text in UTF-8, after `normalised`.
Nothing else goes in: not the tenant, the dataset, the line or the format, so that one content has
one digest wherever it is stored and however it is written. Calls follow their message's text as
JSON: keys sorted, but for the arguments', whose order is learned; `json.dumps` spaces them. Tools'
definitions, `weight` and `name` are no part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

from tailorbird.records.formats import DatasetFormat
from trainer_svc.datasets.content import Content, content, normalised

DIGEST_BYTES = 16
DIGEST_VERSION = 1


class RecordDigest(NamedTuple):
    """16 bytes each: of what a record asks, and of the question with its answer.

    A record that asks nothing has the same in both: it is no other's question.
    """

    prompt: bytes
    record: bytes


def record_digest(format_: DatasetFormat, record: Mapping[str, Any]) -> RecordDigest:
    """Return the digests of a record that `parse_record` accepts."""
    return content_digest(content(format_, record))


def content_digest(of: Content) -> RecordDigest:
    """Return the digests of a record's content."""
    state = blake2b(digest_size=DIGEST_BYTES, person=b"tailorbird-rec-%d" % DIGEST_VERSION)
    asks = False
    for role, text in of.prompt:
        asks |= _feed(state, role, text) > 0
    prompt = state.digest()
    _feed(state, "assistant", of.answer)
    record = state.digest()
    return RecordDigest(prompt if asks else record, record)


def _feed(state: blake2b, role: str, text: str) -> int:
    data = normalised(text).encode()
    state.update(b"%s\0%s%s" % (role.encode(), len(data).to_bytes(8, "little"), data))
    return len(data)
