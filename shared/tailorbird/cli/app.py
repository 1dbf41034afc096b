"""The commands, and how a failure reads: one line, or one for each that is wrong; exit status 1."""

from __future__ import annotations

import sys

import typer
from rich.text import Text

from tailorbird.cli import (
    adapters,
    base,
    chat,
    datasets,
    feedback,
    generate,
    health,
    info,
    jobs,
    tokens,
    up,
)
from tailorbird.cli.output import describe, errors
from tailorbird.errors import TailorbirdError

app = typer.Typer(
    name="tailorbird",
    help="Fine-tune one base model per customer, and serve every customer's adapter hot.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("up")(up.up)
app.add_typer(tokens.app, name="tokens")
app.add_typer(base.app, name="base")
app.add_typer(datasets.app, name="datasets")
app.add_typer(jobs.app, name="jobs")
app.add_typer(adapters.app, name="adapters")
app.add_typer(feedback.app, name="feedback")
app.command("generate")(generate.generate)
app.command("chat")(chat.chat)
app.command("info")(info.info)
app.command("health")(health.health)


def main() -> None:
    """Run the command line; what can be expected to go wrong ends in few words."""
    try:
        app()
    except TailorbirdError as error:
        failure = describe(error)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        failure = f"error: {error}"
    errors.print(Text(failure, style="red"), soft_wrap=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
