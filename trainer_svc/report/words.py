"""How figures and names are said to people."""

from __future__ import annotations

import math
import re

from trainer_svc.judgement.model import Candidate

_CANDIDATES = {
    Candidate.TUNED: "Tuned",
    Candidate.BASE: "Base",
    Candidate.FEW_SHOT: "Few-shot",
    Candidate.ROUTED: "Routed now",
}
_AS_WRITTEN = {"f1": "F1", "json": "JSON", "rouge": "ROUGE", "l": "L", "id": "ID"}
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_LEAST_PLAIN, _MOST_PLAIN = 1e-3, 1e15
"""Numbers beyond these are said with a power of ten."""


def candidate_name(candidate: Candidate) -> str:
    """Name a candidate."""
    return _CANDIDATES[candidate]


def words(name: str) -> str:
    """Say a field's or metric's name: "token_f1" is "Token F1"; a grader's is left as it is."""
    if not re.fullmatch(r"[a-z0-9_]+", name):
        return name
    said = " ".join(_AS_WRITTEN.get(part, part) for part in name.split("_"))
    return (said[:1].upper() + said[1:]).replace("ROUGE L", "ROUGE-L")


def number(value: float) -> str:
    """Say a number to four digits; whole ones in full, by thousands."""
    if not math.isfinite(value):
        return str(value)
    if value and not _LEAST_PLAIN <= abs(value) < _MOST_PLAIN:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        power = str(int(exponent)).translate(_SUPERSCRIPT)
        return f"{mantissa.rstrip('0').rstrip('.')} × 10{power}".replace("-", "−")
    if value == int(value) or abs(value) >= 10_000:
        return f"{value:,.0f}".replace("-", "−")
    return f"{value:.4g}".replace("-", "−")


def score(value: float) -> str:
    """Say a score of 0 to 1."""
    return f"{value:.3f}".replace("-", "−")


def change(value: float) -> str:
    """Say a difference, with its sign."""
    return f"{value:+.3f}".replace("-", "−")


def loss(value: float) -> str:
    """Say a loss, in nats per token."""
    return f"{value:.3f}" if abs(value) < 1000 else number(value)


def counted(count: int, one: str) -> str:
    """Say how many there are of what is called `one`."""
    return f"{count:,} {one if count == 1 else one + 's'}"


def last_part(name: str) -> str:
    """Return the id at a resource name's end."""
    return name.rpartition("/")[2]
