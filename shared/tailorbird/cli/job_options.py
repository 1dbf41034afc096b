"""What options of `jobs create` and `jobs sweep create` have in common."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tailorbird.cli.connect import data_name
from tailorbird.cli.evaluation_file import read_evaluation
from tailorbird.names import is_id
from tailorbird.tuning.v1 import job_pb2


class Policy(StrEnum):
    """What happens to the route when the version is published."""

    AUTO_IF_BETTER = "auto-if-better"
    ALWAYS = "always"
    MANUAL = "manual"


class TooLong(StrEnum):
    """What becomes of a record that is too long."""

    TRUNCATE = "truncate"
    DROP = "drop"
    ERROR = "error"


Validation = Annotated[
    str | None,
    typer.Option(
        help="A dataset to validate on, or the share of the data to hold out, above 0 and below 1."
    ),
]
TooLongOption = Annotated[TooLong, typer.Option(help="What becomes of a record that is too long.")]
MaxTooLong = Annotated[
    float | None, typer.Option(help="Share of records that may be too long; else 0.1.")
]
DataLimits = Annotated[
    list[str] | None,
    typer.Option(
        help="Refuse data with more of a fault than this share: leakage=0, exact-duplicates,"
        " near-duplicates, contradictions or label-share. May be given several times."
    ),
]
Metric = Annotated[
    str, typer.Option(help="The metric that decides; else by the kind of the answers.")
]
Slices = Annotated[
    list[str] | None,
    typer.Option("--slice", help="Tell figures apart by this metadata field; may be repeated."),
]
FewShot = Annotated[
    int | None, typer.Option(help="Examples of the few-shot prompt, at most 8; 0: none.")
]
EvaluationFile = Annotated[
    Path | None,
    typer.Option(
        "--evaluation",
        help="A JSON file of what is evaluated, by the API's names: graders, required_phrases,"
        " json_schema, counterfactuals and so on. Other options go before it.",
        exists=True,
        dir_okay=False,
    ),
]
MaxRetentionLoss = Annotated[
    float | None, typer.Option(help="Nats that the loss on general texts may rise.")
]
MaxForgotten = Annotated[
    float | None, typer.Option(help="Share of general questions that may be forgotten.")
]


def set_validation(spec: job_pb2.JobSpec, validation: str | None, tenant: str | None) -> None:
    """Set a specification's validation data to a dataset, or to a share of the training data.

    A number above 0 and below 1 is a share, whatever else it might name; BadParameter for what is
    neither such a number nor names a dataset.
    """
    if validation is None:
        return
    share = _number(validation)
    if 0 < share < 1:
        spec.validation_fraction = share
    elif "/" in validation or is_id(validation):
        spec.validation_dataset = data_name(validation, tenant)
    else:
        raise typer.BadParameter(
            f"{validation!r} is neither a share of the training data, above 0 and below 1, nor the"
            " id of a dataset: lower-case letters, digits and '-'",
            param_hint="--validation",
        )


def _number(text: str) -> float:
    """Return the number that a text is; one that is in no range if it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def set_evaluation(
    config: job_pb2.EvaluationConfig,
    file: Path | None,
    metric: str,
    slices: Sequence[str] | None,
    few_shot: int | None,
    max_retention_loss: float | None,
    max_forgotten: float | None,
) -> None:
    """Set what a file asks for, if there is one, and then what the options do.

    BadParameter if the file cannot be read.
    """
    if file is not None:
        config.Clear()
        read_evaluation(file, config)
    config.MergeFrom(
        job_pb2.EvaluationConfig(
            primary_metric=metric,
            few_shot_examples=few_shot,
            max_retention_loss=max_retention_loss,
            max_forgotten=max_forgotten,
        )
    )
    config.slice_fields.extend(each for each in slices or () if each not in config.slice_fields)


def set_limits(limits: job_pb2.DataLimits, given: Iterable[str] | None) -> None:
    """Set limits from words like leakage=0; BadParameter: unknown, or set twice."""
    asked = job_pb2.DataLimits()
    for each in given or ():
        _set_limit(asked, each)
    limits.MergeFrom(asked)


def _set_limit(limits: job_pb2.DataLimits, given: str) -> None:
    name, _, share = given.partition("=")
    field = f"max_{name.replace('-', '_')}"
    try:
        if limits.HasField(field):  # type: ignore[arg-type]
            raise typer.BadParameter(f"{name} is given twice", param_hint="--data-limit")
        setattr(limits, field, float(share))
    except (AttributeError, ValueError) as error:
        known = ", ".join(
            one.name.removeprefix("max_").replace("_", "-") for one in limits.DESCRIPTOR.fields
        )
        raise typer.BadParameter(
            f"{given!r}: a share of one of {known} is expected, like leakage=0",
            param_hint="--data-limit",
        ) from error
