"""python -m trainer_svc: runs the trainer until SIGTERM or SIGINT."""

from __future__ import annotations

import sys

from tailorbird.process import prepare_process


def main() -> int:
    """Return the exit status: 0 after an orderly stop, 2 for wrong settings, 1 otherwise."""
    prepare_process()
    # Each of these imports for seconds, and reads the environment.
    from tailorbird.service import run_service
    from trainer_svc.app import serve
    from trainer_svc.settings import TrainerSettings

    return run_service(TrainerSettings, serve)


if __name__ == "__main__":
    sys.exit(main())
