"""From a JSONL file to an answer, in Python. With `tailorbird up` running:

python -m examples.clients.fine_tune tenants/acme examples/support/train.jsonl "Where is WF-1?"
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tailorbird.client import CallError, ServingClient, TrainerClient, chat_request
from tailorbird.tuning.v1.job_pb2 import JobSpec


def fine_tune(trainer: TrainerClient, tenant: str, data: Path, adapter: str) -> bool:
    """Upload the data, train on it, print the loss on the way; tell whether it succeeded."""
    dataset = trainer.upload_dataset(tenant, data.stem, data)
    print(f"{dataset.name}: {dataset.record_count} records")
    spec = JobSpec(training_dataset=dataset.name, adapter=adapter, validation_fraction=0.1)
    job = trainer.create_job(tenant, spec)
    for event in trainer.watch_job(job.name):
        if event.HasField("evaluation"):
            print(f"step {event.evaluation.step}: loss {event.evaluation.validation_loss:.3f}")
    return bool(trainer.get_job(job.name).version)


def main() -> None:
    """Fine-tune, then ask."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tenant", help="tenants/{tenant}")
    parser.add_argument("data", type=Path, help="a JSONL file of chats")
    parser.add_argument("question")
    arguments = parser.parse_args()
    token = os.environ.get("TAILORBIRD_TOKEN")
    adapter = f"{arguments.tenant}/adapters/{arguments.data.parent.name}"
    try:
        with TrainerClient("localhost:50051", token) as trainer:
            if not fine_tune(trainer, arguments.tenant, arguments.data, adapter):
                sys.exit("the job did not succeed: see `tailorbird jobs list`")
        with ServingClient("localhost:50052", token) as serving:
            for piece in serving.stream_generate(chat_request(adapter, arguments.question)):
                print(piece.text, end="", flush=True)
        print()
    except CallError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
