"""`tailorbird feedback`: record, list, import, delete."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer

from tailorbird.cli.connect import (
    TenantOption,
    full_name,
    parent_of,
    with_serving,
    with_trainer,
)
from tailorbird.cli.data_report import print_warnings
from tailorbird.cli.formats import Output, OutputOption, print_data
from tailorbird.cli.names import OfAdapter, VersionArgument, version_name
from tailorbird.cli.output import (
    errors,
    last_part,
    out,
    plain,
    print_facts,
    print_rows,
    when,
)
from tailorbird.client import ServingClient, TrainerClient, feedback_request
from tailorbird.errors import InvalidArgument
from tailorbird.serving.v1 import inference_service_pb2 as serving_pb
from tailorbird.tuning.v1 import dataset_pb2, feedback_pb2

_SHOWN = 60

app = typer.Typer(help="Keep answers and corrections, and train on them.", no_args_is_help=True)

_AdapterOption = Annotated[
    str, typer.Option("--adapter", help="The adapter whose answers they are.")
]
_Since = Annotated[
    datetime | None, typer.Option(help="Only what was recorded then or later, in UTC.")
]
_Until = Annotated[datetime | None, typer.Option(help="Only what was recorded before, in UTC.")]


class Rated(StrEnum):
    """How good an answer was."""

    GOOD = "good"
    BAD = "bad"


class Rule(StrEnum):
    """What is learned of feedback."""

    CORRECTIONS_AND_GOOD = "corrections-and-good"
    CORRECTIONS = "corrections"
    GOOD = "good"


class Format(StrEnum):
    """Which feedback, and the shape of its records."""

    CHAT = "chat"
    PROMPT_COMPLETION = "prompt_completion"


@app.command()
@with_serving
def record(
    serving: ServingClient,
    version: VersionArgument,
    question: Annotated[str, typer.Argument(help="What was asked.")],
    answer: Annotated[str, typer.Argument(help="What was answered.")],
    correction: Annotated[str, typer.Option(help="What should have been answered.")] = "",
    rating: Annotated[Rated | None, typer.Option(help="How good the answer was.")] = None,
    system: Annotated[str, typer.Option(help="Instructions that held for the chat.")] = "",
    label: Annotated[
        list[str] | None, typer.Option(help="What else to know, as key=value; give it for each.")
    ] = None,
    generation: Annotated[
        int, typer.Option(help="Generation of the route that chose the version; 0 if pinned.")
    ] = 0,
    request_id: Annotated[str, typer.Option(help="Same id, same record, for a day.")] = "",
    adapter: OfAdapter = None,
    tenant: TenantOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Keep an answer with its correction or rating, rid of personal data."""
    response = serving.record_feedback(
        feedback_request(
            version_name(version, adapter, tenant),
            question,
            answer,
            system=system,
            correction=correction,
            rating=_rating(rating),
            labels=_labels(label or ()),
            route_generation=generation,
            request_id=request_id,
        )
    )
    if output.is_data:
        print_data(response, output)
        return
    replaced = ", ".join(f"{kind} {count}" for kind, count in sorted(response.redactions.items()))
    print_facts(
        [
            ("name", response.name),
            ("recorded", when(response.create_time)),
            ("replaced", replaced or "nothing found"),
        ]
    )


@app.command("list")
@with_trainer
def list_(
    trainer: TrainerClient,
    adapter: _AdapterOption,
    since: _Since = None,
    until: _Until = None,
    rating: Annotated[Rated | None, typer.Option(help="Only what was rated so.")] = None,
    corrected: Annotated[
        bool | None,
        typer.Option("--corrected/--uncorrected", help="Only with, or only without correction."),
    ] = None,
    limit: Annotated[int, typer.Option(help="How many to show at most.", min=1)] = 100,
    tenant: TenantOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List an adapter's feedback, newest first."""
    pages = trainer.list_feedback(
        full_name(adapter, "adapters", tenant),
        since=_utc(since),
        until=_utc(until),
        rating=_rating(rating),
        has_correction=corrected,
    )
    found: list[feedback_pb2.Feedback] = []
    unreadable: list[str] = []
    for page in pages:
        found += page.feedback
        unreadable += page.unreadable
        if len(found) >= limit:
            break
    found = found[:limit]
    for name in unreadable:
        errors.print(f"cannot be read: {name}", soft_wrap=True, markup=False)
    if output.is_data:
        print_data(found, output)
        return
    print_rows(
        ["FEEDBACK", "RECORDED", "VERSION", "RATING", "ASKED", "ANSWER", "CORRECTION"],
        map(_row, found),
    )


@app.command("import")
@with_trainer
def import_(
    trainer: TrainerClient,
    adapter: _AdapterOption,
    dataset_id: Annotated[str, typer.Option("--id", help="The id of the dataset to make.")],
    since: _Since = None,
    until: _Until = None,
    rule: Annotated[Rule, typer.Option(help="What is learned.")] = Rule.CORRECTIONS_AND_GOOD,
    format_: Annotated[
        Format, typer.Option("--format", help="Take chats, or prompts.")
    ] = Format.CHAT,
    tenant: TenantOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a dataset of feedback, to train on as on any other."""
    name = full_name(adapter, "adapters", tenant)
    parent = parent_of(tenant or name.split("/")[1])
    response = trainer.import_feedback(
        parent,
        dataset_id,
        name,
        since=_utc(since),
        until=_utc(until),
        rule=feedback_pb2.FeedbackRule.Value(f"FEEDBACK_RULE_{rule.name}"),
        format=dataset_pb2.DatasetFormat.Value(f"DATASET_FORMAT_{format_.name}"),
    )
    if output.is_data:
        print_data(response, output)
        return
    print_facts(
        [
            ("dataset", response.dataset.name),
            ("read", f"{response.read_count:,}"),
            ("imported", f"{response.imported_count:,}"),
            ("not asked for", f"{response.other_count:,}" if response.other_count else ""),
            ("vanished", f"{response.vanished_count:,}" if response.vanished_count else ""),
            ("unusable", f"{response.unusable_count:,}" if response.unusable_count else ""),
        ]
    )
    print_warnings(response.dataset.report.warnings, errors)
    for each in response.unusable:
        errors.print(f"{each.name}: {each.problem}", soft_wrap=True, markup=False)


@app.command()
@with_trainer
def delete(
    trainer: TrainerClient,
    name: Annotated[str, typer.Argument(help="A record's name.")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Delete a record of feedback, for good. Datasets that were made of it keep it."""
    trainer.delete_feedback(name)
    if output.is_data:
        print_data(feedback_pb2.Feedback(name=name), output)
        return
    out.print(f"{name} is deleted", soft_wrap=True, markup=False)


def _row(feedback: feedback_pb2.Feedback) -> Sequence[str]:
    chat = feedback.WhichOneof("input") == "chat"
    asked = feedback.chat.messages[-1].content if chat else feedback.prompt
    rating = serving_pb.Rating.Name(feedback.rating).removeprefix("RATING_").lower()
    return [
        last_part(feedback.name),
        when(feedback.create_time),
        last_part(feedback.version),
        rating if feedback.rating else "",
        _cut(asked),
        _said(feedback.answer),
        _said(feedback.correction),
    ]


def _said(answer: serving_pb.FeedbackAnswer) -> str:
    calls = [f"{call.name}({call.arguments_json})" for call in answer.tool_calls]
    return _cut(" ".join([answer.text, *calls]).strip())


def _cut(text: str) -> str:
    line = plain(" ".join(text.split()))
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"


def _rating(rating: Rated | None) -> serving_pb.Rating.ValueType:
    named = rating.name if rating else "UNSPECIFIED"
    return serving_pb.Rating.Value(f"RATING_{named}")


def _labels(given: Sequence[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for key, value in map(_label, given):
        if key in labels:
            raise InvalidArgument("--label", f"{key[:80]!r} is given twice")
        labels[key] = value
    return labels


def _label(given: str) -> tuple[str, str]:
    key, separator, value = given.partition("=")
    if not separator:
        raise InvalidArgument("--label", f"{given[:80]!r} is not key=value")
    return key, value


def _utc(time: datetime | None) -> datetime | None:
    return None if time is None else time.replace(tzinfo=UTC)
