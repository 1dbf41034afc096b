from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from bench.training.chats import CHATS, tokenised, write_datasets
from bench.training.workload import Record

BASE = Path(__file__).parents[3] / "examples" / "demo_base"


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return CHATS.read_text().splitlines()[:20]


@pytest.fixture(scope="module")
def records(lines: list[str]) -> list[Record]:
    return tokenised(lines, AutoTokenizer.from_pretrained(BASE, local_files_only=True))


def test_the_answer_alone_is_trained(lines: list[str], records: list[Record]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(BASE, local_files_only=True)
    for line, record in zip(lines, records, strict=True):
        whole = tokenizer.decode(record.token_ids)
        both = zip(record.token_ids, record.trained, strict=True)
        answer = tokenizer.decode([token for token, trained in both if trained])
        assert answer == json.loads(line)["messages"][-1]["content"] + "<|end|>"
        assert whole.endswith("<|assistant|>" + answer)


def test_datasets_have_the_tokens_that_were_asked_for(
    lines: list[str], records: list[Record], tmp_path: Path
) -> None:
    most = max(len(record.token_ids) for record in records)

    written = write_datasets(lines, records, 3, 1500, tmp_path / "datasets")

    assert list(written) == ["job-0", "job-1", "job-2"]
    lengths = dict(zip(lines, (len(record.token_ids) for record in records), strict=True))
    datasets = [path.read_text().splitlines() for path in written.values()]
    for dataset in datasets:
        assert 1500 <= sum(lengths[line] for line in dataset) < 1500 + most
    # One after the other, from the beginning again where the chats end.
    assert [line for dataset in datasets for line in dataset] == [
        lines[place % len(lines)] for place in range(sum(map(len, datasets)))
    ]
