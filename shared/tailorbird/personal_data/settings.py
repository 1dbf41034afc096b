"""What is looked for, as settings of whatever service looks for it."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode

from tailorbird.errors import FailedPrecondition, InvalidArgument
from tailorbird.personal_data.loading import MISSING, load_scanner, scan_options
from tailorbird.settings import CommonSettings, wrong_setting

if TYPE_CHECKING:
    from tailorbird.personal_data.options import ScanOptions
    from tailorbird.personal_data.scanner import Scanner


def _members(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return tuple(member.strip() for member in value.split(",") if member.strip())


class ScanSettings(CommonSettings):
    """The settings of a service that can look for personal data."""

    personal_data_kinds: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(_members), Field(max_length=64)
    ] = ()
    """Kinds to look for, with commas between, beside personal_data_patterns' own. Empty: all."""
    personal_data_patterns: Annotated[str, Field(max_length=65536)] = ""
    """Further patterns: kind=regular expression, one a line, at most 32. Case does not count.

    A kind stands there once. One that is known, such as medical_record, loses its own pattern.
    """
    personal_data_min_score: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Score from 0 to 1 below which a finding does not count."""
    personal_data_spacy_model: str = ""
    """A spaCy pipeline's folder or package, which finds names and places. Empty: none are found."""

    @property
    def patterns_by_kind(self) -> dict[str, str]:
        """`personal_data_patterns`, without its blank lines; InvalidArgument for a kind twice."""
        found: dict[str, str] = {}
        for line in self.personal_data_patterns.splitlines():
            kind, _, expression = line.partition("=")
            if (kind := kind.strip()) in found:
                raise InvalidArgument(
                    "patterns", f"{kind[:80]!r} is there twice; put | between its expressions"
                )
            if line.strip():
                found[kind] = expression
        return found

    def check_scan(self, setting: str, value: str) -> None:
        """Raise the error of a validator where nothing could look as `setting`, `value`, asks."""
        try:
            self._options()
        except InvalidArgument as error:
            raise wrong_setting(f"personal_data_{error.field}", error.description) from error
        except FailedPrecondition as error:
            raise wrong_setting(setting, error.message) from error
        if find_spec("presidio_analyzer") is None:
            raise wrong_setting(setting, f"{value!r} {MISSING}")

    def scanner(self) -> Scanner:
        """Return what looks for it; FailedPrecondition and InvalidArgument as `load_scanner`."""
        try:
            return load_scanner(self._options())
        except InvalidArgument as error:
            raise InvalidArgument(f"personal_data_{error.field}", error.description) from error

    def _options(self) -> ScanOptions:
        return scan_options(
            self.personal_data_kinds,
            self.personal_data_min_score,
            self.patterns_by_kind,
            self.personal_data_spacy_model,
        )
