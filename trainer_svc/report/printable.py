"""Text from data, of which every character can be seen."""

from __future__ import annotations

_PICTURES = str.maketrans(
    {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n"}
    | dict.fromkeys(range(0x7F, 0xA0), "\ufffd")
    | dict.fromkeys((0x2028, 0x2029), "\n")
)


def printable(text: str) -> str:
    """Put a picture in the place of each control character, for which HTML has none itself.

    Tabs and line ends stay, of whichever kind they are.
    """
    return text.replace("\r\n", "\n").translate(_PICTURES)
