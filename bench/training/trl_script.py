"""python -m bench.training.trl_script: what a user of TRL runs for one customer's dataset.

What it took goes into a file.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from bench.training.formats import FORMATS
from bench.training.memory import peak_mib
from bench.training.sizes import Lora


def main() -> None:
    """Read, train, save."""
    parser = argparse.ArgumentParser(prog="python -m bench.training.trl_script")
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="chats, one a line")
    parser.add_argument("--out", type=Path, required=True, help="where the adapter goes")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--batch", type=int, required=True, help="records of a step")
    parser.add_argument("--told", type=Path, required=True, help="where the figures go")
    arguments = parser.parse_args()
    began = time.perf_counter()

    from datasets import Dataset

    from bench.training.peft_steps import lora_config
    from bench.training.trl_trainer import make_trainer

    imported = time.perf_counter()
    trainer = make_trainer(
        arguments.base,
        Dataset.from_list([_record(line) for line in arguments.data.read_text().splitlines()]),
        lora_config(Lora()),
        arguments.format,
        arguments.out,
        batch=arguments.batch,
        lr_scheduler_type="cosine",
    )
    built = time.perf_counter()
    trainer.train()
    trained = time.perf_counter()
    trainer.save_model()
    data = trainer.train_dataset
    told = {
        "import_seconds": imported - began,
        "build_seconds": built - imported,
        "train_seconds": trained - built,
        "save_seconds": time.perf_counter() - trained,
        "tokens": sum(map(len, data["input_ids"])),
        "trained_tokens": sum(label != -100 for labels in data["labels"] for label in labels),
        "steps": trainer.state.global_step,
        "peak_mib": peak_mib(),
    }
    arguments.told.write_text(json.dumps(told))


def _record(line: str) -> dict[str, Any]:
    """Return the chat as TRL wants it, so that only the answer counts in the loss."""
    *prompt, completion = json.loads(line)["messages"]
    return {"prompt": prompt, "completion": [completion]}


if __name__ == "__main__":
    main()
