"""The command line's root: its own options, and the end that every failure comes to."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from tailorbird.cli.commands import ASKED, Commands
from tailorbird.cli.exits import Exit

app = typer.Typer(
    name="tailorbird",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _begun(incomplete: str) -> list[str]:
    from tailorbird.cli.context_choice import begun

    return begun(incomplete)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from tailorbird.cli.version import version_line

        print(version_line())
        raise typer.Exit


@app.callback()
def root(
    command: typer.Context,
    context: Annotated[
        str | None,
        typer.Option(
            help="The context to take what is not given from; also after the command.",
            autocompletion=_begun,
        ),
    ] = None,
    version: Annotated[  # noqa: ARG001
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
    command.meta[ASKED] = context


def _mend_streams() -> None:
    """Let whatever is printed be printed: with a stream that is closed, or that is not UTF-8."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115
        elif mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def main() -> None:
    """Run the command line; whatever goes wrong ends in few words and a status of `exits`."""
    _mend_streams()
    try:
        app(prog_name="tailorbird")
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
    except BrokenPipeError:
        sys.exit(Exit.UNEXPECTED)
    except Exception as error:
        # Not needed by what goes well.
        from tailorbird.cli.failure import tell

        sys.exit(tell(error))


if __name__ == "__main__":
    main()
