"""The driver of a worker process, on the demo base."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from bench.serving.processes import BenchFailed
from bench.training.chats import CHATS, tokenised
from bench.training.worker import TrainingWorker

BASE = Path(__file__).parents[3] / "examples" / "demo_base"


def test_jobs_train_until_all_wait_for_a_version_or_one_fails(tmp_path: Path) -> None:
    lines = CHATS.read_text().splitlines()[:4]
    records = tokenised(lines, AutoTokenizer.from_pretrained(BASE, local_files_only=True))
    datasets = {}
    for number in range(3):
        path = tmp_path / f"job-{number}.jsonl"
        path.write_text("".join(f"{line}\n" for line in lines))
        datasets[path.stem] = path
    (tmp_path / "bad.jsonl").write_text('{"messages": "none"}\n')

    with TrainingWorker(BASE, tmp_path / "work", tmp_path / "worker.log", 1) as worker:
        tokens = worker.train(datasets, batch_tokens=256, at_once=2)
        assert tokens == 3 * sum(len(record.token_ids) for record in records)
        assert worker.peak_mib() > 100
        with pytest.raises(BenchFailed, match="INVALID_RECORD"):
            worker.train({"bad": tmp_path / "bad.jsonl"}, batch_tokens=256, at_once=1)
