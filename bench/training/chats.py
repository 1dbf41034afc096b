"""The example's support chats, as datasets of a given size and as tokenised records."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.training.workload import Record

CHATS = Path(__file__).parents[2] / "examples" / "support" / "train.jsonl"


def tokenised(lines: Sequence[str], tokenizer: Any) -> list[Record]:
    """Return each chat's ids, of which the last answer's count in the loss."""
    return [_record(json.loads(line)["messages"], tokenizer) for line in lines]


def write_datasets(
    lines: Sequence[str], records: Sequence[Record], count: int, tokens: int, folder: Path
) -> dict[str, Path]:
    """Cut `count` datasets of at least `tokens` tokens each from `lines`; return them by job.

    The chats begin anew where they are used up.
    """
    folder.mkdir()
    rows = _for_ever(lines, records)
    written = {}
    for number in range(count):
        taken, held = [], 0
        while held < tokens:
            line, record = next(rows)
            taken.append(line)
            held += len(record.token_ids)
        path = folder / f"job-{number}.jsonl"
        path.write_text("".join(f"{line}\n" for line in taken))
        written[path.stem] = path
    return written


def _for_ever(lines: Sequence[str], records: Sequence[Record]) -> Iterator[tuple[str, Record]]:
    while True:
        yield from zip(lines, records, strict=True)


def _record(messages: list[dict[str, str]], tokenizer: Any) -> Record:
    prompt = tokenizer.apply_chat_template(
        messages[:-1], add_generation_prompt=True, return_dict=False
    )
    whole = tokenizer.apply_chat_template(messages, return_dict=False)
    return Record(whole, [int(place >= len(prompt)) for place in range(len(whole))])
