"""`tailorbird jobs`: create, get, list, cancel, pause, resume, delete, watch; sweep is apart."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from tailorbird.cli import job_create, sweeps
from tailorbird.cli.connect import (
    TenantOption,
    full_name,
    parent_of,
    with_trainer,
)
from tailorbird.cli.data_report import print_summary
from tailorbird.cli.formats import Output, OutputOption, print_data
from tailorbird.cli.job_shown import follow_job, show_job
from tailorbird.cli.output import last_part, print_facts, print_rows, when
from tailorbird.cli.watch import state_name
from tailorbird.client import TrainerClient
from tailorbird.tuning.v1 import job_pb2

app = typer.Typer(help="Fine-tune: start jobs and follow them.", no_args_is_help=True)
app.command("create")(job_create.create)
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
def get(
    trainer: TrainerClient,
    name: _Job,
    tenant: TenantOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show a job, and what the report on its data says."""
    job = trainer.get_job(full_name(name, "jobs", tenant))
    show_job(job, output)
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
    show_job(trainer.cancel_job(full_name(name, "jobs", tenant)), output)


@app.command()
@with_trainer
def pause(
    trainer: TrainerClient,
    name: _Job,
    tenant: TenantOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Hold a job back, with a checkpoint, until it is resumed."""
    show_job(trainer.pause_job(full_name(name, "jobs", tenant)), output)


@app.command()
@with_trainer
def resume(
    trainer: TrainerClient,
    name: _Job,
    tenant: TenantOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let a paused job go on from its checkpoint."""
    show_job(trainer.resume_job(full_name(name, "jobs", tenant)), output)


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
    follow_job(trainer, full, after)


def _show_data(trainer: TrainerClient, spec: job_pb2.JobSpec, *, warnings: bool) -> None:
    """Show what the reports on a job's datasets say."""
    for dataset in (spec.training_dataset, spec.validation_dataset):
        if dataset:
            print_summary(trainer, dataset, warnings=warnings)
