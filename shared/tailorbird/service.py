"""How a service's process begins and ends: settings, logs, event loop, exit status."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NoReturn, TypeVar

import structlog
import uvloop
from pydantic import ValidationError

from tailorbird.errors import TailorbirdError
from tailorbird.failed_start import setting_of, told, wrong_settings
from tailorbird.printed import log_what_is_printed
from tailorbird.settings import CommonSettings
from tailorbird.telemetry import configure_logging, raw_log_format

_Settings = TypeVar("_Settings", bound=CommonSettings)
_T = TypeVar("_T")

# gRPC stops its threads around every fork of the process, and calls that arrive just then fail. Our
# children never use the parent's gRPC. Read when gRPC starts, hence at import.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"
# What gRPC's core prints is no record of ours; what it means for us is raised, and logged then.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

# A database URL holds its password.
_SECRET_SETTINGS = {"database_url"}


def run_service(
    read_settings: Callable[[], _Settings],
    serve: Callable[[_Settings], Awaitable[int]],
    settings_level: int = logging.INFO,
) -> int:
    """Run `serve` until it returns the exit status; 2 for wrong settings, 1 if it cannot run.

    Either is told in one line, which names the setting where it is one's. `settings_level` is that
    of the record that has all settings.
    """
    log = structlog.get_logger(__name__)
    try:
        settings = read_settings()
    except ValidationError as error:
        configure_logging(raw_log_format(os.environ), "info")
        for setting, problem in wrong_settings(error):
            log.critical("cannot start", reason="WRONG_SETTING", **told(setting, problem))
        return 2
    configure_logging(settings.log_format, settings.log_level)
    log_what_is_printed(settings.log_format)
    log.log(
        settings_level, "settings", **settings.model_dump(mode="json", exclude=_SECRET_SETTINGS)
    )

    async def main() -> int:
        return await serve(settings)

    try:
        return uvloop.run(main())
    except TailorbirdError as error:
        setting, problem = setting_of(error, type(settings).model_fields)
        log.critical("cannot run", reason=error.reason, **told(setting, problem))
    except Exception as error:
        log.critical("cannot run", reason="INTERNAL", error=type(error).__name__, exc_info=error)
    return 1


async def or_stopped(
    starting: Coroutine[Any, Any, _T], stop: asyncio.Event, leave: Callable[[], NoReturn]
) -> _T:
    """Return what `starting` returns. A stop meanwhile ends the process by `leave`.

    It has no calls yet, and a thread that reads a base model cannot be interrupted.
    """
    task, stopped = asyncio.create_task(starting), asyncio.create_task(stop.wait())
    await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        structlog.get_logger(__name__).info("stopped while starting")
        leave()
    stopped.cancel()
    return task.result()
