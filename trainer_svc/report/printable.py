"""Text from data, of which every character can be seen."""

from __future__ import annotations

_TURNING = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""Unicode's embeddings, overrides and isolates: what follows one may be read backwards, or in
another place, also past the end of the text that it stands in."""

_PICTURES = str.maketrans(
    {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n"}
    | dict.fromkeys(range(0x7F, 0xA0), "\ufffd")
    | dict.fromkeys((0x2028, 0x2029), "\n")
    | {code: f"[U+{code:04X}]" for code in _TURNING}
)


def printable(text: str) -> str:
    """Put a picture in the place of each control character, for which HTML has none itself.

    Of those that turn the direction of text, their numbers. Tabs and line ends stay, of whichever
    kind they are.
    """
    return text.replace("\r\n", "\n").translate(_PICTURES)
