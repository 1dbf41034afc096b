"""python -m trainer_svc: runs the trainer until SIGTERM or SIGINT, or an operator's command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from tailorbird.process import prepare_process
from trainer_svc.housekeeping.commands import COMMANDS

CHECK = "check"
FILE_REPORT = "file-report"
"""For `tailorbird datasets check`; needs no settings, and nothing that runs."""


def main(arguments: Sequence[str] = ()) -> int:
    """Return the exit status: 0 after an orderly stop, 2 for wrong settings, 1 otherwise.

    A command's is 128 + the number of a signal that ended it.
    """
    if arguments[:1] and arguments[0] in COMMANDS:
        return _command(arguments)
    if arguments[:1] == [CHECK]:
        from trainer_svc.check import run as run_check

        # A thread that hangs in a look-up would be waited for.
        os._exit(run_check(arguments[1:]))
    if arguments[:1] == [FILE_REPORT]:
        from trainer_svc.file_report import run

        return run(arguments[1:])
    prepare_process()
    if role := _parser().parse_args(arguments).role:
        os.environ["TAILORBIRD_ROLE"] = role
    # Each of these imports for seconds, and reads the environment.
    from tailorbird.service import run_service
    from trainer_svc.app import serve
    from trainer_svc.settings import TrainerSettings

    return run_service(TrainerSettings, serve)


def _parser() -> argparse.ArgumentParser:
    all_ = {CHECK: "Say what is wrong with what the trainer needs; change nothing.", **COMMANDS}
    commands = "\n".join(f"  {name:<9}{does}" for name, does in all_.items())
    parser = argparse.ArgumentParser(
        prog="python -m trainer_svc",
        usage="%(prog)s [-h] [--role {all,api,worker}]\n       %(prog)s COMMAND [-h] …",
        description="Run the trainer until SIGTERM or SIGINT. TAILORBIRD_ variables are its "
        "settings.",
        epilog=f"commands, beside a trainer or without one, with the same settings:\n{commands}\n"
        "COMMAND --help has the options of each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--role", choices=("all", "api", "worker"), help="instead of TAILORBIRD_ROLE; default: all"
    )
    return parser


def _command(arguments: Sequence[str]) -> int:
    from tailorbird.interruption import Interruption

    interruption = Interruption(" ".join(arguments))
    prepare_process(interruption.heed)
    from trainer_svc.housekeeping import command

    return command.run(arguments, interruption)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
