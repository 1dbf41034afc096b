"""python -m trainer_svc: runs the trainer until SIGTERM or SIGINT."""

from __future__ import annotations

import sys

import structlog
import uvloop
from pydantic import ValidationError

from tailorbird.errors import TailorbirdError
from tailorbird.telemetry import configure_logging
from trainer_svc.app import serve
from trainer_svc.settings import TrainerSettings


def main() -> int:
    """Return the exit status: 0 after an orderly stop, 2 for wrong settings, 1 otherwise."""
    try:
        settings = TrainerSettings()
    except ValidationError as error:
        for problem in error.errors():
            field = "_".join(str(part) for part in problem["loc"]).upper() or "SETTINGS"
            sys.stderr.write(f"TAILORBIRD_{field}: {problem['msg']}\n")
        return 2
    configure_logging(settings.log_format, settings.log_level)
    log = structlog.get_logger("trainer_svc")
    log.info("settings", **settings.model_dump(mode="json", exclude={"database_url"}))
    try:
        uvloop.run(serve(settings))
    except TailorbirdError as error:
        log.critical("the trainer cannot run", reason=error.reason, error=error.message)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
