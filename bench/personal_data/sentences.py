"""The labelled set: made from the templates by a seed, and read back from its file.

`python -m bench.personal_data.sentences` writes the file again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from bench.personal_data.templates import HARD, WITH_VALUES, WITHOUT
from bench.personal_data.values import make

LABELLED = Path(__file__).with_name("labelled.jsonl")

_SEED = 20261122
_REPEATS = 4
_NO_KINDS = frozenset("digits9 digits10 digits12 invoice date case".split())
_FIELD = re.compile(r"\{\{|\}\}|\{([a-z_0-9.]+)\}")


@dataclass(frozen=True)
class Sentence:
    """A text, where in it personal data stands (kind, start, end; in characters), and its part."""

    text: str
    spans: tuple[tuple[str, int, int], ...]
    part: str


def made() -> Iterator[Sentence]:
    """Yield the whole set, the same one each time."""
    random = Random(_SEED)
    for _ in range(_REPEATS):
        for templates in WITH_VALUES.values():
            for index, template in enumerate(templates):
                yield _filled(template, labelled=True, part=_half(index), random=random)
        for index, template in enumerate(WITHOUT):
            yield _filled(template, labelled=False, part=_half(index), random=random)

    for _ in range(_REPEATS):
        for template in HARD:
            yield _filled(template, labelled=True, part="hard", random=random)


def _half(index: int) -> str:
    return "held_out" if index % 2 else "dev"


def read(path: Path = LABELLED) -> list[Sentence]:
    """Return the set as it stands in its file."""
    records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [
        Sentence(each["text"], tuple(map(tuple, each["spans"])), each["part"]) for each in records
    ]


def to_jsonl(sentences: Iterator[Sentence]) -> str:
    """Return the file's text: a sentence a line."""
    return "".join(json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in sentences)


def _filled(template: str, *, labelled: bool, part: str, random: Random) -> Sentence:
    text, spans, end = "", [], 0
    for match in _FIELD.finditer(template):
        text += template[end : match.start()]
        end = match.end()
        if match[1] is None:
            text += match[0][0]
            continue
        value = make(match[1], random)
        if labelled and match[1] not in _NO_KINDS:
            spans.append((match[1].partition(".")[0], len(text), len(text) + len(value)))
        text += value
    return Sentence(text + template[end:], tuple(spans), part)


if __name__ == "__main__":
    LABELLED.write_text(to_jsonl(made()), encoding="utf-8")
