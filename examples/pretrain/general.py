"""General texts and questions with known answers: what the demo base knows before any tuning.

`python -m examples.pretrain.general >examples/general.jsonl` writes them anew. The questions are of
the skills that pre-training taught, drawn by another seed than its own; the texts are paragraphs of
this repository's documentation, which it has not seen.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .corpus import Corpus

SEED = 1701
QUESTIONS, TEXTS = 80, 40
_TEXT_CHARS = 600
_DOCUMENTS = ("README.md", "bench/README.md", "docs/deploy.md", "examples/demo/README.md")


def records() -> Iterator[dict[str, Any]]:
    """Yield the texts, then the questions."""
    corpus, rng = Corpus(SEED), random.Random(SEED)
    for text in rng.sample(_paragraphs(), TEXTS):
        yield {"text": text}
    for _ in range(QUESTIONS):
        yield {"messages": corpus.chat(rng)}


def _paragraphs() -> list[str]:
    """Return paragraphs of prose, of some lines each."""
    root = Path(__file__).resolve().parents[2]
    texts = (root.joinpath(name).read_text("utf-8") for name in _DOCUMENTS)
    paragraphs = (part.strip()[:_TEXT_CHARS] for text in texts for part in text.split("\n\n"))
    return [part for part in paragraphs if len(part) > 100 and part[0].isalpha()]


def main() -> None:
    """Print them as JSONL."""
    for record in records():
        print(json.dumps(record, ensure_ascii=False))


if __name__ == "__main__":
    main()
