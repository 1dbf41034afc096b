"""`tailorbird jobs create`: a job's specification from a file, from options, or from both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from tailorbird.cli.connect import TenantOption, data_name, full_name, with_trainer
from tailorbird.cli.data_report import print_warnings
from tailorbird.cli.formats import Output, OutputOption, print_data
from tailorbird.cli.job_options import (
    DataLimits,
    EvaluationFile,
    FewShot,
    MaxForgotten,
    MaxRetentionLoss,
    MaxTooLong,
    Metric,
    Policy,
    Slices,
    TooLong,
    Validation,
    set_evaluation,
    set_limits,
    set_validation,
)
from tailorbird.cli.job_shown import follow_job, show_job
from tailorbird.cli.names import version_name
from tailorbird.cli.output import errors, out
from tailorbird.cli.preflight import print_preflight
from tailorbird.client import TrainerClient
from tailorbird.tuning.v1 import dataset_pb2, job_pb2

_UPDATE = "The low-rank update"
_RUN = "The training run"
_JUDGED = "Evaluation and promotion"
_QUEUE = "The queue"


@with_trainer
def create(
    trainer: TrainerClient,
    adapter: Annotated[
        str | None, typer.Option(help="The adapter that gets a version; a name or an id.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="The training dataset; a name, an id or a URI.")
    ] = None,
    validation: Validation = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            help="YAML or JSON of the job, by the API's field names, as `jobs get -o yaml` prints"
            " it; '-' reads standard input. Options go before it.",
        ),
    ] = None,
    from_version: Annotated[
        str | None,
        typer.Option(help="A version to train on from; a name, or an id of the adapter's."),
    ] = None,
    base_model: Annotated[str, typer.Option(help="The base; else the trainer's first.")] = "",
    label: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE, for your own use; repeatable.")
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(
            help="LoRA rank: 8, 16, 32, 64 or 128, as far as `info` has it.",
            rich_help_panel=_UPDATE,
        ),
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="LoRA alpha; else twice the rank.", rich_help_panel=_UPDATE)
    ] = None,
    target_modules: Annotated[
        str,
        typer.Option(
            help="Layers that get an update: q_proj,v_proj; else all.", rich_help_panel=_UPDATE
        ),
    ] = "",
    rslora: Annotated[
        bool | None,
        typer.Option(
            "--rslora/--no-rslora",
            help="Scale by alpha over the root of the rank.",
            rich_help_panel=_UPDATE,
        ),
    ] = None,
    dropout: Annotated[
        float | None,
        typer.Option(help="Dropout on the update's input, 0 to below 1.", rich_help_panel=_UPDATE),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the data.", rich_help_panel=_RUN)
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate.", rich_help_panel=_RUN)
    ] = None,
    warmup_ratio: Annotated[
        float | None,
        typer.Option(help="Share of the steps with a rising rate, to 0.5.", rich_help_panel=_RUN),
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="AdamW's weight decay, 0 to 1.", rich_help_panel=_RUN)
    ] = None,
    batch_tokens: Annotated[
        int | None, typer.Option(help="Tokens a step.", rich_help_panel=_RUN)
    ] = None,
    max_sequence_length: Annotated[
        int | None,
        typer.Option(help="Tokens of a record above which it is too long.", rich_help_panel=_RUN),
    ] = None,
    too_long: Annotated[
        TooLong | None,
        typer.Option(
            help="What becomes of a record that is too long; else drop.", rich_help_panel=_RUN
        ),
    ] = None,
    max_too_long: MaxTooLong = None,
    data_limit: DataLimits = None,
    early_stopping_patience: Annotated[
        int | None,
        typer.Option(
            help="Stop after so many evaluations without a better loss.", rich_help_panel=_RUN
        ),
    ] = None,
    evaluation_interval: Annotated[
        int | None, typer.Option(help="Steps between validation losses.", rich_help_panel=_RUN)
    ] = None,
    checkpoint_interval: Annotated[
        int | None, typer.Option(help="Steps between checkpoints.", rich_help_panel=_RUN)
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of order, initialisation and dropout.", rich_help_panel=_RUN),
    ] = None,
    policy: Annotated[
        Policy | None,
        typer.Option(help="Whether the route moves; else auto-if-better.", rich_help_panel=_JUDGED),
    ] = None,
    evaluate: EvaluationFile = None,
    metric: Metric = "",
    slice_: Slices = None,
    few_shot: FewShot = None,
    max_retention_loss: MaxRetentionLoss = None,
    max_forgotten: MaxForgotten = None,
    exclusive: Annotated[
        bool | None,
        typer.Option(
            "--exclusive/--shared", help="Train next to no other job.", rich_help_panel=_QUEUE
        ),
    ] = None,
    priority: Annotated[
        int | None,
        typer.Option(
            help="-100 to 100: a higher one is started first, where it is allowed; else 0.",
            rich_help_panel=_QUEUE,
        ),
    ] = None,
    job_id: Annotated[
        str, typer.Option(help="The job's id; else the trainer's choice.", rich_help_panel=_QUEUE)
    ] = "",
    request_id: Annotated[
        str, typer.Option(help="Makes the call safe to repeat.", rich_help_panel=_QUEUE)
    ] = "",
    validate_only: Annotated[
        bool, typer.Option("--validate-only", help="Check everything, start nothing.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job to its end.")] = False,
    tenant: TenantOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Start a fine-tuning job. What is left out is chosen by the trainer."""
    spec = job_pb2.JobSpec()
    if file is not None:
        # YAML is needed by no other command.
        from tailorbird.cli.job_file import read_job_file

        read_job_file(file, spec)
    modules = [each.strip() for each in target_modules.split(",")] if target_modules else []
    if modules:
        del spec.lora.target_modules[:]
    _name_in_full(spec, adapter, data, from_version, tenant)
    spec.MergeFrom(
        job_pb2.JobSpec(
            base_model=base_model,
            lora=job_pb2.LoraConfig(rank=rank, alpha=alpha, target_modules=modules),
            hyperparameters=job_pb2.Hyperparameters(
                learning_rate=learning_rate,
                epochs=epochs,
                batch_tokens=batch_tokens,
                max_sequence_length=max_sequence_length,
                warmup_ratio=warmup_ratio,
                weight_decay=weight_decay,
                seed=seed,
                evaluation_interval=evaluation_interval,
                checkpoint_interval=checkpoint_interval,
                early_stopping_patience=early_stopping_patience,
            ),
            labels=_labels(label or []),
            data=job_pb2.DataPolicy(max_too_long_fraction=max_too_long),
        )
    )
    # What is 0 or false here would be no change to a message that is merged.
    if rslora is not None:
        spec.lora.use_rslora = rslora
    if dropout is not None:
        spec.lora.dropout = dropout
    if exclusive is not None:
        spec.isolation = job_pb2.ISOLATION_EXCLUSIVE if exclusive else job_pb2.ISOLATION_SHARED
    if priority is not None:
        spec.priority = priority
    if policy is not None:
        name = f"PROMOTION_POLICY_{policy.name}"
        spec.promotion_policy = job_pb2.PromotionPolicy.Value(name)
    if too_long is not None:
        spec.data.too_long = job_pb2.TooLong.Value(f"TOO_LONG_{too_long.name}")
    set_evaluation(
        spec.evaluation, evaluate, metric, slice_, few_shot, max_retention_loss, max_forgotten
    )
    set_validation(spec, validation, tenant)
    set_limits(spec.data_limits, data_limit)
    warnings: list[dataset_pb2.DataWarning] = []
    job = trainer.create_job(
        # The job belongs to the tenant of its adapter.
        "/".join(spec.adapter.split("/")[:2]),
        spec,
        job_id=job_id,
        request_id=request_id,
        validate_only=validate_only,
        warned=warnings.append,
        checked=partial(print_data, output=output) if output.is_data else print_preflight,
    )
    if validate_only or not watch:
        # Who watches reads them in the job's history.
        print_warnings(warnings, errors)
    if validate_only:
        if not output.is_data:
            out.print("the job would be accepted")
    elif watch:
        errors.print(Text(job.name))
        follow_job(trainer, job.name)
    else:
        show_job(job, output)


def _name_in_full(
    spec: job_pb2.JobSpec,
    adapter: str | None,
    data: str | None,
    from_version: str | None,
    tenant: str | None,
) -> None:
    """Set a specification's names, those of the options before its own, which may be ids too."""
    asked = {
        "--adapter": ("adapter", adapter or spec.adapter),
        "--data": ("training_dataset", data or spec.training_dataset),
    }
    for option, (field, value) in asked.items():
        if not value:
            raise typer.BadParameter(f"give it, or {field} in --file", param_hint=option)
    spec.adapter = full_name(asked["--adapter"][1], "adapters", tenant)
    spec.training_dataset = data_name(asked["--data"][1], tenant)
    if spec.validation_dataset:
        spec.validation_dataset = data_name(spec.validation_dataset, tenant)
    if version := from_version or spec.from_version:
        spec.from_version = version_name(version, spec.adapter, tenant)


def _labels(given: Sequence[str]) -> Mapping[str, str]:
    labels: dict[str, str] = {}
    for each in given:
        key, equals, value = each.partition("=")
        if not equals:
            raise typer.BadParameter(f"{each!r} is not KEY=VALUE", param_hint="--label")
        if key in labels:
            raise typer.BadParameter(f"{key!r} is given twice", param_hint="--label")
        labels[key] = value
    return labels
