"""`tailorbird datasets`: upload, import, get, report, list, delete; two others stand apart."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from tailorbird.cli import data_check, record
from tailorbird.cli.connect import TenantOption, full_name, parent_of, with_trainer
from tailorbird.cli.dataset_format import FormatOption, format_name, format_value
from tailorbird.cli.dataset_shown import PERSONAL_DATA_MODE, print_dataset
from tailorbird.cli.formats import Output, OutputOption, print_data
from tailorbird.cli.output import (
    errors,
    last_part,
    print_facts,
    print_rows,
    size,
    when,
)
from tailorbird.cli.pages import show_page
from tailorbird.client import TrainerClient
from tailorbird.personal_data.modes import Mode
from tailorbird.tuning.v1 import dataset_pb2

app = typer.Typer(help="Upload training data and look it up.", no_args_is_help=True)


DatasetId = Annotated[
    str, typer.Option("--id", help="The dataset's id: lower-case letters, digits and '-'.")
]
PersonalData = Annotated[
    Mode | None,
    typer.Option(help="What is done about personal data. Without it, what the trainer does."),
]


@app.command()
@with_trainer
def upload(
    trainer: TrainerClient,
    file: Annotated[
        Path, typer.Argument(help="A JSONL file.", exists=True, dir_okay=False, readable=True)
    ],
    dataset_id: DatasetId,
    format_: FormatOption = None,
    personal_data: PersonalData = None,
    tenant: TenantOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Upload a JSONL file. Every line is checked before anything is stored."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=errors,
        transient=True,
        disable=not errors.is_terminal,
    ) as progress:
        task = progress.add_task(file.name, total=file.stat().st_size)
        dataset = trainer.upload_dataset(
            parent_of(tenant),
            dataset_id,
            file,
            personal_data=_mode(personal_data),
            sent=lambda total: progress.update(task, completed=total),
            format=format_value(format_),
        )
    _show(dataset, output)


@app.command("import")
@with_trainer
def import_(
    trainer: TrainerClient,
    uri: Annotated[str, typer.Argument(help="s3://, gs://, az:// or file:// URI of a JSONL file.")],
    dataset_id: DatasetId,
    format_: FormatOption = None,
    personal_data: PersonalData = None,
    tenant: TenantOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let the trainer read a JSONL file, under a prefix that it allows to the tenant."""
    dataset = trainer.import_dataset(
        parent_of(tenant),
        dataset_id,
        uri,
        format=format_value(format_),
        personal_data=_mode(personal_data),
    )
    _show(dataset, output)


@app.command()
@with_trainer
def get(
    trainer: TrainerClient,
    name: Annotated[str, typer.Argument(help="A dataset's name, or its id in the tenant.")],
    tenant: TenantOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show a dataset's record and the report on its data."""
    _show(trainer.get_dataset(full_name(name, "datasets", tenant)), output)


@app.command()
@with_trainer
def report(
    trainer: TrainerClient,
    name: Annotated[str, typer.Argument(help="A dataset's name, or its id in the tenant.")],
    browse: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    to: Annotated[
        Path | None, typer.Option("--out", help="File to write the page to.", dir_okay=False)
    ] = None,
    tenant: TenantOption = None,
) -> None:
    """Write the report on a dataset as a page, and say where it is."""
    full = full_name(name, "datasets", tenant)
    show_page(trainer.get_dataset_report(full), to, last_part(full), browse=browse)


@app.command("list")
@with_trainer
def list_(
    trainer: TrainerClient, tenant: TenantOption = None, output: OutputOption = Output.TABLE
) -> None:
    """List the tenant's datasets by id."""
    datasets = trainer.list_datasets(parent_of(tenant))
    if output.is_data:
        print_data(datasets, output)
        return
    print_rows(
        ("DATASET", "FORMAT", "RECORDS", "SIZE", "CREATED"),
        (
            (
                last_part(each.name),
                format_name(each.format),
                f"{each.record_count:,}",
                size(each.size_bytes),
                when(each.create_time),
            )
            for each in datasets
        ),
    )


@app.command()
@with_trainer
def delete(
    trainer: TrainerClient,
    name: Annotated[str, typer.Argument(help="A dataset's name, or its id in the tenant.")],
    tenant: TenantOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Delete a dataset that no job needs any more. Versions trained on it stay."""
    dataset = full_name(name, "datasets", tenant)
    trainer.delete_dataset(dataset)
    if output.is_data:
        print_data(dataset_pb2.Dataset(name=dataset), output)
        return
    print_facts([("deleted", dataset)])


app.command("check")(data_check.check)
app.command("find-record")(record.find)


def _show(dataset: dataset_pb2.Dataset, output: Output) -> None:
    if output.is_data:
        print_data(dataset, output)
    else:
        print_dataset(dataset)


def _mode(mode: Mode | None) -> dataset_pb2.PersonalDataMode.ValueType:
    return dataset_pb2.PersonalDataMode.Value(
        PERSONAL_DATA_MODE + (mode.upper() if mode else "UNSPECIFIED")
    )
