"""Names and places by an operator's spaCy model; the one file that imports spaCy."""

from __future__ import annotations

from collections.abc import Iterator

import spacy

from tailorbird.errors import InvalidArgument
from tailorbird.personal_data.findings import Finding
from tailorbird.personal_data.kinds import Kind

_KINDS = {
    "PERSON": Kind.PERSON,
    "PER": Kind.PERSON,
    "GPE": Kind.PLACE,
    "LOC": Kind.PLACE,
    "FAC": Kind.PLACE,
}

# As Presidio scores what a model finds.
_SCORE = 0.85

# spaCy refuses texts above a million characters, and needs about a gigabyte for as many.
_PIECE = 50_000


class NamesDetector:
    """Finds persons and places with the spaCy pipeline `model`: a folder or an installed package.

    InvalidArgument if there is none, or if it names neither.
    """

    kind = Kind.PERSON
    whole = True

    def __init__(self, model: str) -> None:
        try:
            self._pipeline = spacy.load(model)
        except (OSError, ValueError, ImportError) as error:
            raise InvalidArgument(
                "spacy_model", f"{model[:200]!r} is no spaCy pipeline that can be loaded"
            ) from error

    def find(self, text: str, seconds: float) -> Iterator[Finding]:
        """Yield what stands in `text`. Its time is bounded by the length alone."""
        del seconds
        for start, end in _pieces(text):
            for entity in self._pipeline(text[start:end]).ents:
                if entity.label_ in _KINDS:
                    yield Finding(
                        _KINDS[entity.label_],
                        start + entity.start_char,
                        start + entity.end_char,
                        _SCORE,
                    )


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    while len(text) - start > _PIECE:
        space = text.rfind(" ", start, start + _PIECE)
        end = space if space > start else start + _PIECE
        yield start, end
        start = end
    yield start, len(text)
