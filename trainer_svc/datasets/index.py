"""The digest index: what stands beside a dataset's data, a row a record.

Header  8 bytes "TBINDEX" and a NUL; version, rows and the dataset's records, 8 bytes each; BLAKE2b
        of the rows, 16 bytes. Integers are little-endian and unsigned.
Row     the record's line, 8 bytes; its two digests (`digests.py`), 16 bytes each. In the file's
        order; of a dataset with more than 2^20 records the first 2^20.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from tailorbird.errors import DataCorrupt
from trainer_svc.datasets.digests import DIGEST_VERSION, RecordDigest

MAX_ROWS = 2**20

_MAGIC = b"TBINDEX\0"
_HEADER = struct.Struct("<8sQQQ16s")
_ROW = struct.Struct("<Q16s16s")
# Digests are as long as the type, so that its padding with NULs changes none of them.
_ROWS = np.dtype([("line", "<u8"), ("prompt", "S16"), ("record", "S16")])

MAX_INDEX_BYTES = _HEADER.size + MAX_ROWS * _ROW.size

Digests = npt.NDArray[np.bytes_]


@dataclass(frozen=True)
class RecordIndex:
    """Lines and digests of a dataset's first records, [rows] each, and how many records it has."""

    lines: npt.NDArray[np.uint64]
    prompts: Digests
    whole: Digests
    records: int

    @property
    def complete(self) -> bool:
        """Whether every record of the dataset has a row."""
        return len(self.lines) == self.records

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return _HEADER.size + len(self.lines) * _ROW.size

    def lines_of(self, digest: bytes) -> list[int]:
        """Return the lines of the records with this digest of question and answer."""
        found: list[int] = self.lines[self.whole == digest].tolist()
        return found


class IndexWriter:
    """Takes a dataset's digests in the order of its lines; 40 bytes of memory a row."""

    def __init__(self) -> None:
        self._rows = bytearray()
        self._records = 0

    def add(self, line: int, digest: RecordDigest) -> None:
        """Add one record."""
        self._records += 1
        if self._records <= MAX_ROWS:
            self._rows += _ROW.pack(line, *digest)

    def index(self) -> RecordIndex:
        """Return what was added."""
        return _index(bytes(self._rows), self._records)

    def to_bytes(self) -> bytes:
        """Return the file."""
        count = len(self._rows) // _ROW.size
        header = _HEADER.pack(_MAGIC, DIGEST_VERSION, count, self._records, _sum(self._rows))
        return header + self._rows


def read_index(data: bytes, name: str) -> RecordIndex | None:
    """Return the index of a file, or None if a later release wrote it in another version.

    DataCorrupt (INDEX_INVALID) with `name` if the bytes are not what was written.
    """
    rows = memoryview(data)[_HEADER.size :]
    try:
        magic, version, count, records, checksum = _HEADER.unpack(data[: _HEADER.size])
    except struct.error as error:
        raise _invalid(name) from error
    if magic != _MAGIC:
        raise _invalid(name)
    if version != DIGEST_VERSION:
        return None
    if not count or len(rows) != count * _ROW.size or checksum != _sum(rows):
        raise _invalid(name)
    return _index(rows, records)


def _index(rows: bytes | memoryview, records: int) -> RecordIndex:
    table = np.frombuffer(rows, dtype=_ROWS)
    return RecordIndex(table["line"], table["prompt"], table["record"], records)


def _sum(rows: bytes | bytearray | memoryview) -> bytes:
    return blake2b(rows, digest_size=16).digest()


def _invalid(name: str) -> DataCorrupt:
    return DataCorrupt(f"{name} is not a dataset's index", reason="INDEX_INVALID", name=name)
