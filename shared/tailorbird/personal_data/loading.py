"""The way to a scanner for whoever may lack the extra `privacy`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tailorbird.errors import FailedPrecondition
from tailorbird.personal_data.kinds import KINDS, Kind

if TYPE_CHECKING:
    from tailorbird.personal_data.options import ScanOptions
    from tailorbird.personal_data.scanner import Scanner

MISSING = "needs Presidio, which is not installed: pip install 'tailorbird[privacy]'"


def scan_options(
    kinds: tuple[str, ...] = (),
    min_score: float = 0.4,
    patterns: Mapping[str, str] | None = None,
    spacy_model: str = "",
) -> ScanOptions:
    """Return checked options; FailedPrecondition without the extra, InvalidArgument as they say."""
    try:
        from tailorbird.personal_data.options import ScanOptions
    except ModuleNotFoundError as error:
        raise _missing() from error
    return ScanOptions(
        kinds=tuple(Kind(kind) if kind in KINDS else kind for kind in kinds),
        min_score=min_score,
        patterns=dict(patterns or {}),
        spacy_model=spacy_model,
    )


def load_scanner(options: ScanOptions) -> Scanner:
    """Return a scanner; FailedPrecondition without the extra, InvalidArgument for a wrong model."""
    try:
        from tailorbird.personal_data.scanner import Scanner

        return Scanner(options)
    except ModuleNotFoundError as error:
        raise _missing() from error


def _missing() -> FailedPrecondition:
    return FailedPrecondition(
        f"looking for personal data {MISSING}",
        reason="PRIVACY_EXTRA_MISSING",
        setting="personal_data",
    )
