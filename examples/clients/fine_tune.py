"""From a JSONL file to an answer, in Python. With `tailorbird up` running:

python -m examples.clients.fine_tune tenants/acme examples/support/train.jsonl "Where is W-5663?"

TAILORBIRD_TRAINER, TAILORBIRD_SERVING and TAILORBIRD_TOKEN say where else the services are, and who
calls.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tailorbird.client import CallError, JobFailed, ServingClient, TrainerClient
from tailorbird.tuning.v1.job_pb2 import JobEvent, JobSpec


def fine_tune(trainer: TrainerClient, tenant: str, data: Path, adapter: str) -> str:
    """Upload the data, train on it, print the loss on the way; return the version's name."""
    dataset = trainer.upload_dataset(tenant, data.stem, data)
    print(f"{dataset.name}: {dataset.record_count} records")
    spec = JobSpec(training_dataset=dataset.name, adapter=adapter, validation_fraction=0.1)
    job = trainer.create_job(tenant, spec)
    return trainer.wait_for_job(job.name, heard=_show).version


def _show(event: JobEvent) -> None:
    if event.HasField("evaluation"):
        print(f"step {event.evaluation.step}: loss {event.evaluation.validation_loss:.3f}")


def _address(name: str, port: int) -> str:
    return os.environ.get(name, f"localhost:{port}")


def main() -> None:
    """Fine-tune, then ask."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tenant", help="tenants/{tenant}")
    parser.add_argument("data", type=Path, help="a JSONL file of chats")
    parser.add_argument("question")
    arguments = parser.parse_args()
    token = os.environ.get("TAILORBIRD_TOKEN")
    adapter = f"{arguments.tenant}/adapters/{arguments.data.parent.name}"
    try:
        with TrainerClient(_address("TAILORBIRD_TRAINER", 50051), token) as trainer:
            version = fine_tune(trainer, arguments.tenant, arguments.data, adapter)
        print(f"published {version}")
        with ServingClient(_address("TAILORBIRD_SERVING", 50052), token) as serving:
            answer = serving.stream_text(
                adapter,
                arguments.question,
                # The trainer decides whether it takes the adapter's traffic; it answers anyway.
                version=version.rpartition("/")[2],
                temperature=0,
                max_tokens=64,
            )
            for text in answer:
                print(text, end="", flush=True)
        print()
    except JobFailed as error:
        sys.exit(f"the job failed: {error.reason}: {error.message}")
    except CallError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
