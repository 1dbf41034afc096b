"""python -m bench.personal_data --out FILE: what is found of personal data, by kind.

On the half of our labelled sentences that no detector was made by; --part takes the other one, or
the sentences that were written to be hard.
FILE gets the counts, recall and precision, and records a second on the demo's chats, as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from bench.attempt import attempt
from bench.personal_data.scores import scored, table
from bench.personal_data.sentences import read
from bench.serving import machine
from bench.serving.targets import say
from tailorbird.personal_data.loading import load_scanner, scan_options
from tailorbird.personal_data.scanner import Scanner

_CHATS = Path(__file__).parents[2] / "examples" / "support" / "train.jsonl"


def main() -> int:
    """Measure and print; return 1 when it could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.personal_data", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--part", choices=("held_out", "dev", "hard"), default="held_out")
    arguments = parser.parse_args()
    return attempt(arguments.out, "personal-data", lambda _: _measured(arguments.part))


def _measured(part: str) -> dict[str, Any]:
    facts = machine.facts()
    scanner = load_scanner(scan_options())
    sentences = [each for each in read() if each.part == part]
    scores = scored(scanner, sentences)
    for line in table(scores):
        say(line)
    speed = _records_a_second(scanner)
    say(f"{len(sentences)} sentences; {speed:.0f} records/s on the demo's support chats")
    return {
        "sentences": len(sentences),
        "part": part,
        "scores": {kind: score.as_figures() for kind, score in scores.items()},
        "records_per_second": speed,
        "machine": facts,
    }


def _records_a_second(scanner: Scanner) -> float:
    chats = [json.loads(line)["messages"] for line in _CHATS.read_text().splitlines()]
    started = time.perf_counter()
    for chat in chats:
        for message in chat:
            scanner.find(message["content"])
    return len(chats) / (time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(main())
