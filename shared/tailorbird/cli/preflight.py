"""What a job would do with its data, as a person reads it before the job exists."""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text

from tailorbird.cli.kept import left_out
from tailorbird.cli.output import out, print_facts, print_rows
from tailorbird.tuning.v1 import job_pb2, preflight_pb2


def print_preflight(found: preflight_pb2.Preflight) -> None:
    """Print what becomes of the records, how long they are, and how they would be trained on."""
    used, validation = found.hyperparameters, found.HasField("validation")
    of = " (held out)" if found.held_out else ""
    print_facts(
        [
            ("training", _data(found.training)),
            (f"validation{of}", _data(found.validation) if validation else ""),
            ("too long", _too_long(found)),
            ("steps", f"{found.total_steps:,}: {used.epochs} epochs"),
            ("batch tokens", f"{used.batch_tokens:,}"),
            ("learning rate", f"{used.learning_rate:.3g}"),
            ("sequence length", f"{used.max_sequence_length:,} tokens"),
        ]
    )
    for sentence in left_out(_accounts(found)):
        out.print(Text(sentence), soft_wrap=True)
    out.print()
    print_rows(["TOKENS", "TRAINING", *(["VALIDATION"] if validation else [])], _histogram(found))


def _data(data: preflight_pb2.Preflight.CheckedData) -> str:
    account = data.account
    return (
        f"{account.kept:,} of {account.records:,} records; {account.trained_tokens:,} tokens "
        f"trained, {account.masked_tokens:,} read only; median {data.median:,}, longest "
        f"{data.longest:,}"
    )


def _too_long(found: preflight_pb2.Preflight) -> str:
    shares = [f"{found.training.too_long_fraction:.1%} of the training data"]
    if found.HasField("validation") and not found.held_out:
        shares.append(f"{found.validation.too_long_fraction:.1%} of the validation data")
    return ", ".join(shares)


def _accounts(found: preflight_pb2.Preflight) -> job_pb2.JobEvent.Prepared:
    validation = found.validation.account if found.HasField("validation") else None
    return job_pb2.JobEvent.Prepared(training=found.training.account, validation=validation)


def _histogram(found: preflight_pb2.Preflight) -> Iterable[list[str]]:
    columns = [found.training, *([found.validation] if found.HasField("validation") else [])]
    counts = [{one.at_least: one.sequences for one in data.lengths} for data in columns]
    ends = {one.at_least: one.below for data in columns for one in data.lengths}
    for at_least, below in sorted(ends.items()):
        yield [f"{at_least:,} to {below - 1:,}", *(f"{one.get(at_least, 0):,}" for one in counts)]
