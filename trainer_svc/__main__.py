"""python -m trainer_svc: runs the trainer until SIGTERM or SIGINT.

python -m trainer_svc collect | erase | migrate: see `housekeeping/command.py`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from tailorbird.process import prepare_process

_COMMANDS = ("collect", "erase", "migrate")


def main(arguments: Sequence[str] = ()) -> int:
    """Return the exit status: 0 after an orderly stop, 2 for wrong settings, 1 otherwise.

    A command's is 128 + the number of a signal that ended it.
    """
    if arguments[:1] and arguments[0] in _COMMANDS:
        return _command(arguments)
    prepare_process()
    parser = argparse.ArgumentParser(prog="python -m trainer_svc", description=__doc__)
    parser.add_argument(
        "--role", choices=("all", "api", "worker"), help="instead of TAILORBIRD_ROLE; default: all"
    )
    if role := parser.parse_args(arguments).role:
        os.environ["TAILORBIRD_ROLE"] = role
    # Each of these imports for seconds, and reads the environment.
    from tailorbird.service import run_service
    from trainer_svc.app import serve
    from trainer_svc.settings import TrainerSettings

    return run_service(TrainerSettings, serve)


def _command(arguments: Sequence[str]) -> int:
    from tailorbird.interruption import Interruption

    interruption = Interruption(" ".join(arguments))
    prepare_process(interruption.heed)
    from trainer_svc.housekeeping import command

    return command.run(arguments, interruption)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
