"""The languages and scripts that a dataset is written in."""

from __future__ import annotations

import random
import unicodedata
from collections import Counter
from functools import cache
from typing import Any

from trainer_svc.datasets.content import Content
from trainer_svc.datasets.report.model import LanguageCount, Languages, ScriptCount

_SAMPLE = 256
_CHARACTERS = 300
"""Of a record's question and of its answer, each, from its beginning: what is looked at."""
_SURE = 0.5
_MAX_LANGUAGES, _MAX_SCRIPTS = 20, 20
_NAMED = {"CJK": "Han"}


class LanguageSample:
    """Keeps 256 records drawn evenly (Vitter's algorithm R, seeded), and names their languages."""

    def __init__(self) -> None:
        self._draw = random.Random("languages")  # noqa: S311
        self._seen = 0
        self._sample: list[str] = []

    def add(self, content: Content) -> None:
        """Offer one record."""
        self._seen += 1
        if len(self._sample) < _SAMPLE:
            self._sample.append(_beginning(content))
        elif (place := self._draw.randrange(self._seen)) < _SAMPLE:
            self._sample[place] = _beginning(content)

    def finish(self) -> Languages:
        """Return what the sample is written in: tens of milliseconds, half a second at first."""
        counts = Counter(_identifier().classify(text)[0] for text in self._sample)
        return Languages(
            sampled=len(self._sample),
            counts=tuple(
                LanguageCount(language=language, records=records)
                for language, records in counts.most_common(_MAX_LANGUAGES)
            ),
        )


class ScriptCounter:
    """Counts the characters of each record's first 300 of question and answer."""

    def __init__(self) -> None:
        self._characters: Counter[str] = Counter()

    def add(self, content: Content) -> None:
        """Count one record."""
        self._characters.update(_beginning(content))

    def finish(self) -> tuple[ScriptCount, ...]:
        """Return the letters by script, the most frequent first; 20 scripts at most."""
        letters: Counter[str] = Counter()
        for character, count in self._characters.items():
            if character.isalpha():
                letters[_script(character)] += count
        return tuple(
            ScriptCount(script=script, letters=count)
            for script, count in letters.most_common(_MAX_SCRIPTS)
        )


def _beginning(content: Content) -> str:
    return f"{content.question[:_CHARACTERS]}\n{content.answer[:_CHARACTERS]}"


def _script(letter: str) -> str:
    # Letters for mathematics and of other widths are named for that, and not for their script.
    plain = unicodedata.normalize("NFKC", letter)[0]
    word = unicodedata.name(plain, "OTHER").split()[0].split("-")[0]
    return _NAMED.get(word, word.capitalize())


@cache
def _identifier() -> Any:
    # Its model takes half a second and 100 MiB to load: a service that gets no upload needs none.
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True, min_confidence=_SURE)
