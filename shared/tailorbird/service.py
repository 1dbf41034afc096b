"""How a service's process begins and ends: settings, logs, event loop, exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
import uvloop
from pydantic import ValidationError

from tailorbird.errors import TailorbirdError
from tailorbird.settings import CommonSettings
from tailorbird.telemetry import configure_logging

_Settings = TypeVar("_Settings", bound=CommonSettings)

# gRPC stops its threads around every fork of the process, and calls that arrive just then fail. Our
# children never use the parent's gRPC. Read when gRPC starts, hence at import.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"

# A database URL holds its password.
_SECRET_SETTINGS = {"database_url"}


def run_service(
    read_settings: Callable[[], _Settings], serve: Callable[[_Settings], Awaitable[int]]
) -> int:
    """Run `serve` until it returns the exit status; 2 for wrong settings, 1 if it cannot run."""
    try:
        settings = read_settings()
    except ValidationError as error:
        for problem in error.errors():
            name = "_".join(str(part) for part in problem["loc"]).upper()
            sys.stderr.write(f"TAILORBIRD_{name or '*'}: {problem['msg']}\n")
        return 2
    configure_logging(settings.log_format, settings.log_level)
    log = structlog.get_logger(__name__)
    log.info("settings", **settings.model_dump(mode="json", exclude=_SECRET_SETTINGS))

    async def main() -> int:
        return await serve(settings)

    try:
        return uvloop.run(main())
    except TailorbirdError as error:
        log.critical("cannot run", reason=error.reason, error=error.message)
        return 1
