"""`tailorbird jobs sweep`: create, get, list, cancel, watch."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Annotated, TypeVar

import typer
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tailorbird.call_error import CallError
from tailorbird.cli.connect import (
    TenantOption,
    check_sendable,
    data_name,
    full_name,
    parent_of,
    with_trainer,
)
from tailorbird.cli.contact import Contact
from tailorbird.cli.data_report import print_warnings
from tailorbird.cli.exits import Exit
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
    set_evaluation,
    set_limits,
    set_validation,
)
from tailorbird.cli.judgement import judgement_lines
from tailorbird.cli.output import errors, last_part, out, print_rows, when
from tailorbird.cli.preflight import print_preflight
from tailorbird.cli.sweep_table import sweep_table
from tailorbird.cli.watch import Heard, OfData, next_step, outcome, state_name, unwatched
from tailorbird.client import TrainerClient
from tailorbird.tuning.v1 import dataset_pb2, job_pb2, sweep_pb2

app = typer.Typer(
    help="Try several settings of one job; the best is published.", no_args_is_help=True
)

_Sweep = Annotated[str, typer.Argument(help="A sweep's name, or its id in the tenant.")]
_Number = TypeVar("_Number", int, float)
_REDRAW_SECONDS = 1.0
_PART = re.compile(r"^\w+|\.\w+|\[\d+\]")
_FLAGS = {
    "sweep.space": "--ranks, --alphas, --learning-rates, --epochs",
    "sweep.space.ranks": "--ranks",
    "sweep.space.alphas": "--alphas",
    "sweep.space.learning_rates": "--learning-rates",
    "sweep.space.learning_rate_range": "--learning-rates",
    "sweep.space.epochs": "--epochs",
    "sweep.random_trials": "--draw",
    "sweep.seed": "--seed",
    "sweep.eta": "--eta",
    "sweep_id": "--sweep-id",
    "request_id": "--request-id",
    "sweep.spec.adapter": "--adapter",
    "sweep.spec.base_model": "--base-model",
    "sweep.spec.training_dataset": "--data",
    "sweep.spec.validation_dataset": "--validation",
    "sweep.spec.validation_fraction": "--validation",
    "sweep.spec.hyperparameters.batch_tokens": "--batch-tokens",
    "sweep.spec.hyperparameters.max_sequence_length": "--max-sequence-length",
    "sweep.spec.data.max_too_long_fraction": "--max-too-long",
    "sweep.spec.data_limits": "--data-limit",
    "sweep.spec.evaluation": "--evaluation",
    "sweep.spec.evaluation.primary_metric": "--metric",
    "sweep.spec.evaluation.slice_fields": "--slice",
    "sweep.spec.evaluation.few_shot_examples": "--few-shot",
    "sweep.spec.evaluation.max_retention_loss": "--max-retention-loss",
    "sweep.spec.evaluation.max_forgotten": "--max-forgotten",
}
"""The options that set a field of the API; what is in a field is set by them, too."""


@app.command()
@with_trainer
def create(
    trainer: TrainerClient,
    adapter: Annotated[str, typer.Option(help="The adapter that gets a version; a name or an id.")],
    data: Annotated[str, typer.Option(help="The training dataset; a name, an id or a URI.")],
    validation: Validation = None,
    ranks: Annotated[str, typer.Option(help="LoRA ranks to try: 8,16,32.")] = "",
    alphas: Annotated[str, typer.Option(help="LoRA alphas to try; else twice each rank.")] = "",
    learning_rates: Annotated[
        str,
        typer.Option(help="Peak rates to try: 1e-4,1e-3; with --draw also 1e-5..1e-2."),
    ] = "",
    epochs: Annotated[str, typer.Option(help="Passes over the data to try: 1,2,4.")] = "",
    draw: Annotated[
        int | None, typer.Option(help="Draw so many settings; else every combination is tried.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    eta: Annotated[
        int, typer.Option(help="One trial of so many goes on at each rung: 2 or 3.")
    ] = 2,
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens a step.")] = None,
    max_sequence_length: Annotated[
        int | None, typer.Option(help="Tokens of a record above which it is too long.")
    ] = None,
    too_long: TooLongOption = TooLong.DROP,
    max_too_long: MaxTooLong = None,
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
    base_model: Annotated[str, typer.Option(help="The base; else the trainer's first.")] = "",
    sweep_id: Annotated[str, typer.Option(help="The sweep's id; else the trainer's choice.")] = "",
    request_id: Annotated[str, typer.Option(help="Makes the call safe to repeat.")] = "",
    validate_only: Annotated[
        bool, typer.Option("--validate-only", help="Check everything and show the trials.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the sweep to its end.")] = False,
    tenant: TenantOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Start a sweep: its settings train together, and the better half goes on from rung to rung."""
    spec = job_pb2.JobSpec(
        base_model=base_model,
        training_dataset=data_name(data, tenant),
        adapter=full_name(adapter, "adapters", tenant),
        hyperparameters=job_pb2.Hyperparameters(
            batch_tokens=batch_tokens, max_sequence_length=max_sequence_length
        ),
        isolation=job_pb2.ISOLATION_EXCLUSIVE if exclusive else job_pb2.ISOLATION_SHARED,
        promotion_policy=job_pb2.PromotionPolicy.Value(f"PROMOTION_POLICY_{policy.name}"),
        data=job_pb2.DataPolicy(
            too_long=job_pb2.TooLong.Value(f"TOO_LONG_{too_long.name}"),
            max_too_long_fraction=max_too_long,
        ),
    )
    set_evaluation(
        spec.evaluation, evaluate, metric, slice_, few_shot, max_retention_loss, max_forgotten
    )
    set_validation(spec, validation, tenant)
    set_limits(spec.data_limits, data_limit)
    space = sweep_pb2.SearchSpace(
        ranks=_numbers("--ranks", ranks, int),
        alphas=_numbers("--alphas", alphas, float),
        epochs=_numbers("--epochs", epochs, int),
    )
    _set_rates(space, learning_rates)
    asked = sweep_pb2.Sweep(spec=spec, space=space, random_trials=draw, seed=seed, eta=eta)
    warnings: list[dataset_pb2.DataWarning] = []
    with _flags_named():
        sweep = trainer.create_sweep(
            "/".join(spec.adapter.split("/")[:2]),
            asked,
            sweep_id=sweep_id,
            request_id=request_id,
            validate_only=validate_only,
            warned=warnings.append,
            checked=None if output.is_data else print_preflight,
        )
    if validate_only or not watch:
        # Who watches reads them in the history.
        print_warnings(warnings, errors)
    if watch and not validate_only:
        errors.print(Text(sweep.name))
        _follow(trainer, sweep)
    else:
        _show(sweep, output)


@contextmanager
def _flags_named() -> Iterator[None]:
    """Name the option before each field of the API that an error is about."""
    try:
        yield
    except CallError as error:
        error.violations = tuple(
            replace(each, field=_with_flag(each.field)) for each in error.violations
        )
        raise


def _with_flag(field: str) -> str:
    parts = _PART.findall(field)
    found = (_FLAGS.get("".join(parts[:count])) for count in range(len(parts), 0, -1))
    flag = next(filter(None, found), "")
    return f"{flag} ({field})" if flag else field


def _numbers(option: str, text: str, kind: type[_Number]) -> list[_Number]:
    try:
        numbers = [kind(word) for word in text.split(",")] if text.strip() else []
    except ValueError as error:
        raise typer.BadParameter(f"{option}: {text!r} is not numbers between commas") from error
    check_sendable(option, numbers)
    return numbers


def _set_rates(space: sweep_pb2.SearchSpace, text: str) -> None:
    low, dots, high = text.partition("..")
    if not dots:
        space.learning_rates.extend(_numbers("--learning-rates", text, float))
        return
    try:
        space.learning_rate_range.low, space.learning_rate_range.high = float(low), float(high)
    except ValueError as error:
        raise typer.BadParameter(f"--learning-rates: {text!r} is no range") from error


@app.command()
@with_trainer
def get(
    trainer: TrainerClient,
    name: _Sweep,
    tenant: TenantOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show a sweep with the figures of its trials."""
    _show(trainer.get_sweep(full_name(name, "sweeps", tenant)), output)


@app.command("list")
@with_trainer
def list_(
    trainer: TrainerClient, tenant: TenantOption = None, output: OutputOption = Output.TABLE
) -> None:
    """List a tenant's sweeps, newest first."""
    sweeps = trainer.list_sweeps(parent_of(tenant))
    if output.is_data:
        print_data(sweeps, output)
        return
    print_rows(
        ["SWEEP", "STATE", "TRIALS", "RUNG", "ADAPTER", "CREATED", "VERSION"],
        (
            [
                sweep.name,
                state_name(sweep.state),
                str(len(sweep.trials)),
                f"{sweep.rungs_decided}/{len(sweep.rungs)}",
                last_part(sweep.spec.adapter),
                when(sweep.create_time),
                last_part(sweep.version),
            ]
            for sweep in sweeps
        ),
    )


@app.command()
@with_trainer
def cancel(
    trainer: TrainerClient,
    name: _Sweep,
    tenant: TenantOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Stop a sweep with all its trials; nothing is published."""
    _show(trainer.cancel_sweep(full_name(name, "sweeps", tenant)), output)


@app.command()
@with_trainer
def watch(trainer: TrainerClient, name: _Sweep, tenant: TenantOption = None) -> None:
    """Follow a sweep to its end, in a table that updates; fails if the sweep does."""
    _follow(trainer, trainer.get_sweep(full_name(name, "sweeps", tenant)))


def _follow(trainer: TrainerClient, sweep: sweep_pb2.Sweep) -> None:
    """Redraw the table as its sweep changes; off a terminal print it after each rung."""
    contact = Contact()
    heard = Heard(trainer.watch_job(sweep.job, lost=contact.lost, back=contact.back))
    try:
        if out.is_terminal:
            with Live(sweep_table(sweep), console=out, auto_refresh=False, transient=True) as live:
                redraw = partial(live.update, refresh=True)
                _show_events(trainer, sweep, heard, redraw)
        else:
            _show_events(trainer, sweep, heard, None)
    except KeyboardInterrupt:
        watch = f"tailorbird jobs sweep watch {sweep.name}"
        errors.print(Text(unwatched(heard.view, "sweep", sweep.job, watch)), soft_wrap=True)
        raise typer.Exit(Exit.INTERRUPTED) from None
    view = heard.view
    out.print(sweep_table(trainer.get_sweep(sweep.name)))
    if view.succeeded:
        out.print(Text(outcome(view)), soft_wrap=True)
        if todo := next_step(view):
            out.print(Text(todo), soft_wrap=True)
        return
    errors.print(Text(outcome(view), style="red"), soft_wrap=True)
    raise typer.Exit(Exit.JOB_ENDED)


def _show_events(
    trainer: TrainerClient,
    sweep: sweep_pb2.Sweep,
    events: Iterable[job_pb2.JobEvent],
    redraw: Callable[[Table], None] | None,
) -> None:
    of_data, drawn = OfData(), -_REDRAW_SECONDS
    for event in events:
        for sentence in of_data.new(event):
            out.print(Text(sentence), soft_wrap=True)
        if event.HasField("judged"):
            out.print(judgement_lines(event.judged))
        if redraw is None:
            if event.HasField("rung_decided"):
                out.print(sweep_table(trainer.get_sweep(sweep.name)))
        elif time.monotonic() - drawn >= _REDRAW_SECONDS:
            redraw(sweep_table(trainer.get_sweep(sweep.name)))
            drawn = time.monotonic()


def _show(sweep: sweep_pb2.Sweep, output: Output) -> None:
    if output.is_data:
        print_data(sweep, output)
        return
    out.print(sweep_table(sweep))
