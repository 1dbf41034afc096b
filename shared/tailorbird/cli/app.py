"""The commands, and how a failure reads: one line, exit status 1."""

from __future__ import annotations

import sys

import typer
from rich.text import Text

from tailorbird.call_error import CallError
from tailorbird.cli import adapters, datasets, generate, jobs, tokens, up
from tailorbird.cli.connect import trainer_and_serving_info
from tailorbird.cli.output import errors
from tailorbird.errors import TailorbirdError

app = typer.Typer(
    name="tailorbird",
    help=__doc__ and "Fine-tune one base model per customer, and serve every adapter hot.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("up")(up.up)
app.command("generate")(generate.generate)
app.command("info")(trainer_and_serving_info)
app.add_typer(tokens.app, name="tokens")
app.add_typer(datasets.app, name="datasets")
app.add_typer(jobs.app, name="jobs")
app.add_typer(adapters.app, name="adapters")


def main() -> None:
    """Run the command line; what can be expected to go wrong ends in one line."""
    try:
        app()
    except TailorbirdError as error:
        errors.print(Text(describe(error), style="red"), soft_wrap=True)
        sys.exit(1)
    except OSError as error:
        errors.print(Text(f"error: {error}", style="red"), soft_wrap=True)
        sys.exit(1)


def describe(error: TailorbirdError) -> str:
    """Say in one line what failed: the reason, the field where there is one, the message."""
    fields = [violation.field for violation in getattr(error, "violations", ())]
    where = f" in {', '.join(fields)}" if fields else ""
    code = f"{error.code.name} " if isinstance(error, CallError) else ""
    if code.strip() == error.reason:
        code = ""
    return f"error: {code}{error.reason}{where}: {' '.join(error.message.split())}"


if __name__ == "__main__":
    main()
