"""python -m serving_svc [check]: serves until SIGTERM or SIGINT, or until its engine dies."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from tailorbird.process import prepare_process


def main(arguments: Sequence[str] = ()) -> int:
    """Return the exit status: 0 after an orderly stop, 2 for wrong settings, 1 otherwise.

    With `check`, what serving needs is looked at instead; see `serving_svc.check`.
    """
    if arguments[:1] == ["check"]:
        from serving_svc.check import run

        # A thread that hangs in a look-up would be waited for.
        os._exit(run(arguments[1:]))
    prepare_process()
    # Each of these imports for seconds, and reads the environment.
    from serving_svc.app import serve
    from serving_svc.settings import ServingSettings
    from tailorbird.service import run_service

    return run_service(ServingSettings, serve)


# vLLM starts its processes by importing this module anew.
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
