"""Records that are almost as an earlier one: MinHash signatures and locality-sensitive hashing.

Records are compared by their words, without case and punctuation: the set of the sequences of five
characters. What more than half of the first 256 records have is left out: a system prompt or a
template that many records share makes none of them alike. Where that leaves hardly anything, it may
be that half of the records are copies of each other, and only what nearly all have is left out;
where that leaves nothing, a record is near to one that has the same words. (Broder 1997;
`datasketch`.)
"""

from __future__ import annotations

import re
from collections import Counter
from hashlib import blake2b
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer_svc.datasets.content import Content
from trainer_svc.datasets.report.model import NearDuplicates, NearPair

NEAR_SIMILARITY = 0.8
"""Templated chats of different customers reach 0.53 (examples/)."""

_MAX_RECORDS = 10_000
_CHARACTERS = 2000
"""Of all the record's texts together, the answer first and then backwards."""
_SHINGLE = 5
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""The golden ratio's odd multiplier of 64 bits (Knuth): the upper half is well mixed."""
_PERMUTATIONS = 128
_LEAST_SHINGLES = 8
"""Fewer say nothing of likeness."""
_OWN_SHINGLES = 16
"""A word that was changed has fewer, one of up to 11 letters."""
_MANY, _NEARLY_ALL = 0.5, 0.9
"""The parts of the records that more must have of what is a template's."""
_FIRST, _TEMPLATE = 256, 16
"""Records by which a template is known, and how few cannot show one."""
_MAX_CANDIDATES = 32
_MAX_PAIRS = 20
_WORD = re.compile(r"[^\W_]+")

Shingles = npt.NDArray[np.uint32]


class NearDuplicateFinder:
    """Compares the first 10,000 distinct records, each with at most 32 earlier ones.

    At most 8 kB of memory for each of the first 256, and about 2 kB for each that is no copy.
    """

    def __init__(self) -> None:
        self._digests: set[bytes] = set()
        self._waiting: list[tuple[int, Shingles]] = []
        self._templates: _Templates | None = None
        self._same: dict[bytes, int] = {}
        self._pairs: list[NearPair] = []
        self._found = 0
        self._search: _Search | None = None

    def add(self, line: int, digest: bytes, content: Content) -> None:
        """Look at one record; `digest` is that of the whole of it."""
        if len(self._digests) == _MAX_RECORDS or digest in self._digests:
            return
        self._digests.add(digest)
        self._waiting.append((line, _shingles(content)))
        if self._templates is not None or len(self._waiting) == _FIRST:
            self._compare()

    def finish(self) -> NearDuplicates:
        """Return what was found."""
        self._compare()
        return NearDuplicates(
            compared=len(self._digests), found=self._found, pairs=tuple(self._pairs)
        )

    def _compare(self) -> None:
        if self._templates is None:
            self._templates = _Templates([shingles for _, shingles in self._waiting])
        for line, shingles in self._waiting:
            nearest = self._nearest(line, shingles, self._templates)
            if nearest is not None:
                self._found += 1
                if len(self._pairs) < _MAX_PAIRS:
                    self._pairs.append(nearest)
        self._waiting.clear()

    def _nearest(self, line: int, shingles: Shingles, templates: _Templates) -> NearPair | None:
        if len(shingles) < _LEAST_SHINGLES:
            return None
        own = templates.own(shingles)
        if len(own) < _LEAST_SHINGLES:
            words = blake2b(shingles.tobytes(), digest_size=16).digest()
            first = self._same.setdefault(words, line)
            return None if first == line else NearPair(line=line, near_to=first, similarity=1.0)
        self._search = self._search or _Search()
        return self._search.nearest(line, own)


class _Templates:
    """What records have in common; nothing if they are few."""

    def __init__(self, records: list[Shingles]) -> None:
        counts = Counter[int]() if len(records) < _TEMPLATE else _counted(records)
        self._many = _above(counts, _MANY * len(records))
        self._nearly_all = _above(counts, _NEARLY_ALL * len(records))

    def own(self, shingles: Shingles) -> Shingles:
        """Return what a record is compared by."""
        own = np.setdiff1d(shingles, self._many, assume_unique=True)
        if len(own) >= _OWN_SHINGLES:
            return own
        return np.setdiff1d(shingles, self._nearly_all, assume_unique=True)


class _Search:
    """Signatures of the records that are near to no earlier one, so that no bucket grows long."""

    def __init__(self) -> None:
        # Half a second with all that it imports: a service that gets no upload needs none of it.
        from datasketch import MinHash, MinHashLSH

        self._empty = MinHash(num_perm=_PERMUTATIONS, hashfunc=int, scheme="affine32")
        self._lsh = MinHashLSH(threshold=NEAR_SIMILARITY, num_perm=_PERMUTATIONS)
        self._signatures: dict[int, Any] = {}

    def nearest(self, line: int, shingles: Shingles) -> NearPair | None:
        """Return the nearest earlier record, or None; then this one is kept."""
        signature = self._empty.copy()
        signature.update_batch(shingles.tolist())
        best = max(
            (
                (signature.jaccard(self._signatures[other]), -other)
                for other in islice(sorted(self._lsh.query(signature)), _MAX_CANDIDATES)
            ),
            default=(0.0, 0),
        )
        if best[0] >= NEAR_SIMILARITY:
            return NearPair(line=line, near_to=-best[1], similarity=round(float(best[0]), 2))
        self._lsh.insert(line, signature, check_duplication=False)
        self._signatures[line] = signature
        return None


def _shingles(content: Content) -> Shingles:
    """Return the hashes of a record's sequences of five characters, each once, sorted."""
    texts = [text for _, text in content.prompt] + [content.answer]
    room, kept = _CHARACTERS, []
    for text in reversed(texts):
        kept.append(text[:room])
        room -= len(kept[-1])
    words = " ".join(_WORD.findall(" ".join(kept).casefold()))
    codes = np.frombuffer(words.encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    if len(codes) < _SHINGLE:
        return np.zeros(0, dtype=np.uint32)
    hashes = np.zeros(len(codes) - _SHINGLE + 1, dtype=np.uint64)
    for offset in range(_SHINGLE):
        hashes = hashes * _MULTIPLIER + codes[offset : offset + len(hashes)]
    # Once more, or the last character would be in the lower half only.
    return np.unique((hashes * _MULTIPLIER >> np.uint64(32)).astype(np.uint32))


def _counted(records: list[Shingles]) -> Counter[int]:
    return Counter(shingle for shingles in records for shingle in shingles.tolist())


def _above(counts: Counter[int], limit: float) -> Shingles:
    """Return the shingles that more records have than `limit`."""
    shared = [shingle for shingle, count in counts.items() if count > limit]
    return np.array(sorted(shared), dtype=np.uint32)
