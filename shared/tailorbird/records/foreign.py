"""What a file that is no JSON Lines seems to be, by its first bytes. Pure."""

from __future__ import annotations

import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE

LOOKED_AT = 512
"""Bytes from a file's beginning that suffice."""

_PACKED = {
    b"\x1f\x8b": "compressed with gzip",
    b"PK\x03\x04": "a zip archive, or a spreadsheet",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ\0": "compressed with xz",
    b"PAR1": "Parquet",
}
"""The signatures that these formats begin with, by their specifications."""
_COLUMN = re.compile(r'\s*"?[^\W\d][\w .-]{0,39}"?\s*')


def seems_to_be(begins: bytes) -> str:
    """Say what a file seems to be that begins so, and what to upload in its place; or ""."""
    for signature, what in _PACKED.items():
        if begins.startswith(signature):
            return f"the file seems to be {what}: upload what is in it, as JSON Lines"
    if begins.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) or b"\0" in begins[:2]:
        return "the file seems to be UTF-16: save it as UTF-8"
    # Spreadsheets write one before a table.
    line, newline, _ = begins.removeprefix(BOM_UTF8).strip().partition(b"\n")
    if line.startswith(b"["):
        return (
            "the file seems to be one JSON array: "
            "write each of its records on a line of its own, without commas between them"
        )
    if newline and line.strip() == b"{":
        return "the file seems to be JSON over several lines: write each record on one line"
    columns = re.split("[,;\t]", line.decode(errors="replace"))
    if len(columns) > 1 and all(map(_COLUMN.fullmatch, columns)):
        return "the file seems to be a table, CSV or the like: write each row as a JSON object"
    return ""
