"""python -m serving_svc: serves until SIGTERM or SIGINT, or until its engine dies."""

from __future__ import annotations

import sys

from tailorbird.process import prepare_process


def main() -> int:
    """Return the exit status: 0 after an orderly stop, 2 for wrong settings, 1 otherwise."""
    prepare_process()
    # Each of these imports for seconds, and reads the environment.
    from serving_svc.app import serve
    from serving_svc.settings import ServingSettings
    from tailorbird.service import run_service

    return run_service(ServingSettings, serve)


if __name__ == "__mp_main__":
    # vLLM's processes begin by importing this module under that name, before any of vLLM.
    from tailorbird.printed import log_as_the_parent

    log_as_the_parent()

if __name__ == "__main__":
    sys.exit(main())
