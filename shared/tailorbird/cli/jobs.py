"""`tailorbird jobs`: create, get, list, cancel, pause, resume, delete, watch; sweep is apart."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from typing import Annotated

import typer
from rich.text import Text

from tailorbird.cli import sweeps
from tailorbird.cli.connect import (
    TenantOption,
    data_name,
    full_name,
    parent_of,
    with_trainer,
)
from tailorbird.cli.contact import Contact
from tailorbird.cli.data_report import print_summary, print_warnings
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
    TooLongOption,
    Validation,
    evaluation,
    set_limits,
    set_validation,
)
from tailorbird.cli.names import version_name
from tailorbird.cli.output import errors, last_part, out, print_facts, print_rows, when
from tailorbird.cli.preflight import print_preflight
from tailorbird.cli.watch import Heard, JobBars, next_step, outcome, state_name, unwatched
from tailorbird.client import CallError, TrainerClient
from tailorbird.tuning.v1 import dataset_pb2, job_pb2

app = typer.Typer(help="Fine-tune: start jobs and follow them.", no_args_is_help=True)
app.add_typer(sweeps.app, name="sweep")

_Job = Annotated[str, typer.Argument(help="A job's name, or its id in the tenant.")]


class State(StrEnum):
    """A state to filter by."""

    QUEUED = "queued"
    PREPARING = "preparing"
    RUNNING = "running"
    EVALUATING = "evaluating"
    PUBLISHING = "publishing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PAUSED = "paused"


@app.command()
@with_trainer
def create(
    trainer: TrainerClient,
    adapter: Annotated[str, typer.Option(help="The adapter that gets a version; a name or an id.")],
    data: Annotated[str, typer.Option(help="The training dataset; a name, an id or a URI.")],
    validation: Validation = None,
    from_version: Annotated[
        str | None,
        typer.Option(help="A version to train on from; a name, or an id of the adapter's."),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(help="LoRA rank: 8, 16, 32, 64 or 128, as far as `info` has it.")
    ] = None,
    alpha: Annotated[float | None, typer.Option(help="LoRA alpha.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens a step.")] = None,
    max_sequence_length: Annotated[
        int | None, typer.Option(help="Tokens of a record above which it is too long.")
    ] = None,
    too_long: TooLongOption = TooLong.DROP,
    max_too_long: MaxTooLong = None,
    early_stopping_patience: Annotated[
        int | None, typer.Option(help="Stop after so many evaluations without a better loss.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of order and initialisation.")] = None,
    data_limit: DataLimits = None,
    policy: Annotated[
        Policy, typer.Option(help="Whether the route moves.")
    ] = Policy.AUTO_IF_BETTER,
    evaluate: EvaluationFile = None,
    metric: Metric = "",
    slice_: Slices = None,
    few_shot: FewShot = None,
    max_retention_loss: MaxRetentionLoss = None,
    max_forgotten: MaxForgotten = None,
    exclusive: Annotated[
        bool, typer.Option("--exclusive", help="Train next to no other job.")
    ] = False,
    priority: Annotated[
        int, typer.Option(help="-100 to 100: a higher one is started first, where it is allowed.")
    ] = 0,
    base_model: Annotated[str, typer.Option(help="The base; else the trainer's first.")] = "",
    job_id: Annotated[str, typer.Option(help="The job's id; else the trainer's choice.")] = "",
    request_id: Annotated[str, typer.Option(help="Makes the call safe to repeat.")] = "",
    validate_only: Annotated[
        bool, typer.Option("--validate-only", help="Check everything, start nothing.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job to its end.")] = False,
    tenant: TenantOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Start a fine-tuning job. What is left out is chosen by the trainer."""
    spec = job_pb2.JobSpec(
        base_model=base_model,
        training_dataset=data_name(data, tenant),
        adapter=full_name(adapter, "adapters", tenant),
        lora=job_pb2.LoraConfig(rank=rank, alpha=alpha),
        hyperparameters=job_pb2.Hyperparameters(
            learning_rate=learning_rate,
            epochs=epochs,
            batch_tokens=batch_tokens,
            max_sequence_length=max_sequence_length,
            early_stopping_patience=early_stopping_patience,
            seed=seed,
        ),
        isolation=job_pb2.ISOLATION_EXCLUSIVE if exclusive else job_pb2.ISOLATION_SHARED,
        priority=priority,
        promotion_policy=job_pb2.PromotionPolicy.Value(f"PROMOTION_POLICY_{policy.name}"),
        from_version=version_name(from_version, adapter, tenant) if from_version else "",
        evaluation=evaluation(
            evaluate, metric, slice_, few_shot, max_retention_loss, max_forgotten
        ),
        data=job_pb2.DataPolicy(
            too_long=job_pb2.TooLong.Value(f"TOO_LONG_{too_long.name}"),
            max_too_long_fraction=max_too_long,
        ),
    )
    set_validation(spec, validation, tenant)
    set_limits(spec.data_limits, data_limit)
    # The job belongs to the tenant of its adapter.
    parent = "/".join(spec.adapter.split("/")[:2])
    warnings: list[dataset_pb2.DataWarning] = []
    job = trainer.create_job(
        parent,
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
        _follow(trainer, job.name)
    else:
        _show(job, output)


@app.command()
@with_trainer
def get(
    trainer: TrainerClient,
    name: _Job,
    tenant: TenantOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show a job, and what the report on its data says."""
    job = trainer.get_job(full_name(name, "jobs", tenant))
    _show(job, output)
    if not output.is_data:
        _show_data(trainer, job.spec, warnings=True)


@app.command("list")
@with_trainer
def list_(
    trainer: TrainerClient,
    state: Annotated[State | None, typer.Option(help="Only jobs in this state.")] = None,
    adapter: Annotated[str, typer.Option(help="Only jobs for this adapter.")] = "",
    tenant: TenantOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List a tenant's jobs, newest first."""
    jobs = trainer.list_jobs(
        parent_of(tenant),
        state=(
            job_pb2.JobState.Value(f"JOB_STATE_{state.name}")
            if state
            else job_pb2.JOB_STATE_UNSPECIFIED
        ),
        adapter=full_name(adapter, "adapters", tenant) if adapter else "",
    )
    if output.is_data:
        print_data(jobs, output)
        return
    print_rows(
        ["JOB", "STATE", "STEP", "ADAPTER", "CREATED", "VERSION"],
        (
            [
                job.name,
                state_name(job.state),
                f"{job.progress.step}/{job.progress.total_steps}"
                if job.progress.total_steps
                else "",
                last_part(job.spec.adapter),
                when(job.create_time),
                last_part(job.version),
            ]
            for job in jobs
        ),
    )


@app.command()
@with_trainer
def cancel(
    trainer: TrainerClient,
    name: _Job,
    tenant: TenantOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Stop a job; nothing is published."""
    _show(trainer.cancel_job(full_name(name, "jobs", tenant)), output)


@app.command()
@with_trainer
def pause(
    trainer: TrainerClient,
    name: _Job,
    tenant: TenantOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Hold a job back, with a checkpoint, until it is resumed."""
    _show(trainer.pause_job(full_name(name, "jobs", tenant)), output)


@app.command()
@with_trainer
def resume(
    trainer: TrainerClient,
    name: _Job,
    tenant: TenantOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let a paused job go on from its checkpoint."""
    _show(trainer.resume_job(full_name(name, "jobs", tenant)), output)


@app.command()
@with_trainer
def delete(
    trainer: TrainerClient,
    name: _Job,
    tenant: TenantOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Delete a job that has ended, with its history. The version it published stays."""
    job = full_name(name, "jobs", tenant)
    trainer.delete_job(job)
    if output.is_data:
        print_data(job_pb2.Job(name=job), output)
        return
    print_facts([("deleted", job)])


@app.command()
@with_trainer
def watch(
    trainer: TrainerClient,
    name: _Job,
    after: Annotated[int, typer.Option(help="Only events after this sequence.")] = 0,
    tenant: TenantOption = None,
) -> None:
    """Follow a job to its end; fails if the job does."""
    full = full_name(name, "jobs", tenant)
    if not after:
        # What the data is warned of stands in the history.
        _show_data(trainer, trainer.get_job(full).spec, warnings=False)
    _follow(trainer, full, after)


def _show_data(trainer: TrainerClient, spec: job_pb2.JobSpec, *, warnings: bool) -> None:
    """Show what the reports on a job's datasets say."""
    for dataset in (spec.training_dataset, spec.validation_dataset):
        if dataset:
            print_summary(trainer, dataset, warnings=warnings)


def _follow(trainer: TrainerClient, name: str, after: int = 0) -> None:
    contact = Contact()
    heard = Heard(trainer.watch_job(name, after, lost=contact.lost, back=contact.back))
    try:
        with JobBars(out) as bars:
            view = bars.follow(last_part(name), heard)
    except KeyboardInterrupt:
        told = unwatched(heard.view, "job", name, f"tailorbird jobs watch {name}")
        errors.print(Text(told), soft_wrap=True)
        raise typer.Exit(130) from None
    if view.succeeded:
        out.print(Text(outcome(view)), soft_wrap=True)
        if todo := next_step(view):
            out.print(Text(todo), soft_wrap=True)
        return
    errors.print(Text(outcome(view), style="red"), soft_wrap=True)
    raise typer.Exit(1)


def _show(job: job_pb2.Job, output: Output) -> None:
    if output.is_data:
        print_data(job, output)
        return
    progress, used = job.progress, job.effective_hyperparameters
    loss = f"{progress.loss:.3f}" if progress.HasField("loss") else ""
    validation = f"{progress.validation_loss:.3f}" if progress.HasField("validation_loss") else ""
    failure = CallError.from_status(job.error) if job.HasField("error") else None
    print_facts(
        [
            ("name", job.name),
            ("state", f"{state_name(job.state)}{_asked(job)}"),
            ("error", f"{failure.reason}: {failure.message}" if failure else ""),
            ("adapter", job.spec.adapter),
            ("data", job.spec.training_dataset),
            ("trains on from", job.spec.from_version),
            ("step", f"{progress.step}/{progress.total_steps}" if progress.total_steps else ""),
            ("loss", loss),
            ("validation", validation),
            ("epochs", str(used.epochs or "")),
            ("learning rate", f"{used.learning_rate:g}" if used.learning_rate else ""),
            ("version", last_part(job.version)),
            ("promoted", _promoted(job)),
            ("created", when(job.create_time)),
            ("started", when(job.start_time)),
            ("ended", when(job.end_time)),
        ]
    )


def _asked(job: job_pb2.Job) -> str:
    """Say what is to become of a job; a cancellation goes before a pause."""
    if job.cancel_requested:
        return " (to be cancelled)"
    return " (to be paused)" if job.pause_requested else ""


def _promoted(job: job_pb2.Job) -> str:
    if not job.version:
        return ""
    if job.promoted:
        return "yes"
    return f"no: {job.promotion_refusal}" if job.promotion_refusal else "no"
