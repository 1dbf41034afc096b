"""`tailorbird info`: what both services offer."""

from __future__ import annotations

import typer
from rich.text import Text

from tailorbird.cli.connect import with_both
from tailorbird.cli.exits import exit_of
from tailorbird.cli.formats import Output, OutputOption, print_data
from tailorbird.cli.output import describe, errors, out, print_facts, size
from tailorbird.client import CallError, ServingClient, TrainerClient
from tailorbird.serving.v1.inference_service_pb2 import GetServerInfoResponse
from tailorbird.tuning.v1.tuning_service_pb2 import BaseModel, GetTrainerInfoResponse


@with_both
def info(
    trainer: TrainerClient, serving: ServingClient, output: OutputOption = Output.TABLE
) -> None:
    """Show what the trainer and serving offer; fails if one does not answer."""
    found: dict[str, GetTrainerInfoResponse | GetServerInfoResponse] = {}
    failures: dict[str, CallError] = {}
    for name, ask in (("trainer", trainer.trainer_info), ("serving", serving.server_info)):
        try:
            found[name] = ask()
        except CallError as error:
            failures[name] = error
    if output.is_data:
        print_data(found, output)
    else:
        for name, answer in found.items():
            out.print(Text(name, style="bold underline"))
            print_facts(_facts(answer))
    for name, failure in failures.items():
        errors.print(Text(f"{name}: {describe(failure)}", style="red"), soft_wrap=True)
    if failures:
        raise typer.Exit(exit_of(next(iter(failures.values()))))


def _facts(answer: GetTrainerInfoResponse | GetServerInfoResponse) -> list[tuple[str, str]]:
    if isinstance(answer, GetTrainerInfoResponse):
        return [
            *(fact for base in answer.base_models for fact in _base(base)),
            ("ranks", ", ".join(map(str, answer.ranks))),
            ("workers", f"{answer.workers} on {answer.device}, {answer.jobs_per_worker} jobs each"),
            ("largest dataset", size(answer.max_dataset_bytes)),
            ("longest record", size(answer.max_record_bytes)),
            ("version", answer.service_version),
        ]
    return [
        ("base model", f"{answer.base_model} · {answer.base_model_digest}"),
        ("profile", answer.profile),
        ("context", f"{answer.max_model_len} tokens"),
        ("adapters", f"{answer.adapter_slots} at once, rank up to {answer.max_lora_rank}"),
        ("weights", answer.dtype),
        ("version", answer.service_version),
    ]


def _base(base: BaseModel) -> list[tuple[str, str]]:
    facts = [("base model", f"{base.name} · {base.max_sequence_length} tokens · {base.digest}")]
    if base.HasField("engine"):
        engine = base.engine
        words = [
            f"{engine.compute_dtype} products",
            f"attention {engine.attention}",
            engine.optimizer,
        ]
        if engine.gradient_checkpointing:
            words.append("gradient checkpointing")
        facts.append(("engine", " · ".join(words)))
    return facts
