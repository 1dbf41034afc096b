"""A job as commands show it: its facts, or its events to its end."""

from __future__ import annotations

import typer
from rich.text import Text

from tailorbird.cli.contact import Contact
from tailorbird.cli.exits import Exit
from tailorbird.cli.formats import Output, print_data
from tailorbird.cli.live import JobPanel
from tailorbird.cli.output import errors, last_part, out, print_facts, when
from tailorbird.cli.watch import Heard, JobBars, next_step, outcome, state_name, unwatched
from tailorbird.client import CallError, TrainerClient
from tailorbird.tuning.v1 import job_pb2


def follow_job(trainer: TrainerClient, name: str, after: int = 0) -> None:
    """Show a job's events after a sequence, to its end; typer.Exit if it does not succeed."""
    contact = Contact()
    heard = Heard(trainer.watch_job(name, after, lost=contact.lost, back=contact.back))
    try:
        if out.is_terminal:
            view = JobPanel(out).follow(last_part(name), heard)
        else:
            with JobBars(out) as bars:
                view = bars.follow(last_part(name), heard)
    except KeyboardInterrupt:
        told = unwatched(heard.view, "job", name, f"tailorbird jobs watch {name}")
        errors.print(Text(told), soft_wrap=True)
        raise typer.Exit(Exit.INTERRUPTED) from None
    if view.succeeded:
        out.print(Text(outcome(view)), soft_wrap=True)
        if todo := next_step(view):
            out.print(Text(todo), soft_wrap=True)
        return
    errors.print(Text(outcome(view), style="red"), soft_wrap=True)
    raise typer.Exit(Exit.JOB_ENDED)


def show_job(job: job_pb2.Job, output: Output) -> None:
    """Print what is known of a job."""
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
