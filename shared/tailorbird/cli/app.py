"""The command line's root, and how a failure reads: one line, or one for each that is wrong."""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer

from tailorbird.cli.commands import Commands
from tailorbird.errors import TailorbirdError

app = typer.Typer(
    name="tailorbird",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from tailorbird.cli.version import version_line

        print(version_line())
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the versions of tailorbird, Python and grpcio.",
        ),
    ] = False,
) -> None:
    """Fine-tune one base model per customer, and serve every customer's adapter hot."""


def main() -> None:
    """Run the command line; what can be expected to go wrong ends in few words."""
    try:
        app(prog_name="tailorbird")
    except TailorbirdError as error:
        _fail(error)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        _fail(error)


def _fail(error: Exception) -> NoReturn:
    # Not needed by what goes well.
    from rich.text import Text

    from tailorbird.cli.output import describe, errors

    failure = describe(error) if isinstance(error, TailorbirdError) else f"error: {error}"
    errors.print(Text(failure, style="red"), soft_wrap=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
