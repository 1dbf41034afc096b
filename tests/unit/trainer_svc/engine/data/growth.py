"""`growth.py FILE FOLDER`: prepare a file; print the anonymous memory gained, at most, in bytes."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.unit.trainer_svc.engine.tiny import dataset_ref, make_tokenizer
from trainer_svc.engine.data.cache import DatasetCache
from trainer_svc.engine.data.prepare import prepare


def anonymous() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def main(file: Path, folder: Path) -> None:
    ref = dataset_ref(file.read_bytes(), record_format="prompt_completion")
    tokenizer = make_tokenizer()
    before = anonymous()
    most = before

    def stop() -> bool:
        nonlocal most
        most = max(most, anonymous())
        return False

    cache = DatasetCache(folder, 2**30)
    dataset, report = prepare(file, ref, tokenizer, 4096, cache, stop, rows=len(tokenizer))
    stop()
    sys.stdout.write(f"{most - before} {report.trained_tokens} {len(dataset)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
