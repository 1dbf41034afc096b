"""`growth.py FILE FOLDER`: prepare a file; print the anonymous memory gained, at most, in bytes."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.unit.trainer_svc.engine.tiny import dataset_ref, make_tokenizer
from trainer_svc.engine.data.work import Source
from trainer_svc.engine.data.writing import read_report, write_dataset


def anonymous() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def main(file: Path, folder: Path) -> None:
    ref = dataset_ref(file.read_bytes(), record_format="prompt_completion")
    tokenizer = make_tokenizer()
    before = anonymous()
    most = before

    def check() -> None:
        nonlocal most
        most = max(most, anonymous())

    folder.mkdir()
    source = Source(path=file, ref=ref, limit=4096, rows=len(tokenizer))
    write_dataset(folder, source, tokenizer, check)
    check()
    report = read_report(folder)
    sys.stdout.write(f"{most - before} {report.trained_tokens} {report.kept}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
