"""python -m trainer_svc collect | erase | migrate: an operator's acts, beside a trainer or without.

They read the trainer's own settings, and with them its database and its object store: whoever may
run this has both anyway. No token of a caller reaches as far, not one for every tenant either.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Mapping, Sequence

from tailorbird.interruption import Interruption
from tailorbird.names import TenantName
from tailorbird.service import run_service
from trainer_svc.housekeeping.collector import collect
from trainer_svc.housekeeping.commands import COMMANDS
from trainer_svc.housekeeping.erased import Erasure
from trainer_svc.housekeeping.erasure import Asked, erase
from trainer_svc.housekeeping.migration import migrate
from trainer_svc.housekeeping.model import Collected, Count, Kind
from trainer_svc.housekeeping.wiring import opened, rules_of
from trainer_svc.record import Record
from trainer_svc.settings import TrainerSettings

_MOST_SECONDS = 86400
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def run(arguments: Sequence[str], interruption: Interruption) -> int:
    """Do what the arguments say; return the exit status, 1 if something could not be done.

    A signal that `interruption` takes ends it, with a status of its own.
    """
    asked = _parser().parse_args(arguments)
    return run_service(
        TrainerSettings,
        lambda settings: interruption.run(_done(asked, settings)),
        # Whoever waits at a terminal did not ask for them.
        settings_level=logging.DEBUG,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainer_svc", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    collecting, erasing, migrating = (
        commands.add_parser(name, allow_abbrev=False, help=does, description=does)
        for name, does in COMMANDS.items()
    )
    collecting.add_argument("--dry-run", action="store_true", help="Only say what would go.")
    erasing.add_argument("tenant", help="The tenant's id.")
    erasing.add_argument(
        "--cancel-jobs", action="store_true", help="Cancel its jobs that have not ended."
    )
    erasing.add_argument(
        "--wait", type=_seconds, default=300.0, metavar="SECONDS", help="For them to end: 300."
    )
    for command in (collecting, erasing):
        command.add_argument("--json", action="store_true", help="Print the report as JSON.")
    migrating.add_argument(
        "--wait",
        type=_seconds,
        default=120.0,
        metavar="SECONDS",
        help="For PostgreSQL to answer: 120.",
    )
    return parser


def _seconds(text: str) -> float:
    """Return how long is waited; argparse.ArgumentTypeError outside of the limits."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= _MOST_SECONDS:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r}: seconds from 0 to {_MOST_SECONDS} are expected"
        )
    return seconds


async def _done(asked: argparse.Namespace, settings: TrainerSettings) -> int:
    if asked.command == "migrate":
        # A file is there or is not.
        await migrate(settings.database, asked.wait if settings.database_url else 0.0)
        return 0
    if asked.command == "erase":
        tenant = TenantName.parse(f"tenants/{asked.tenant}", "tenant")
        async with opened(settings) as stores:
            erased = await erase(stores, Asked(tenant, asked.cancel_jobs, asked.wait))
        _tell(erased, None if asked.json else told_erasure(erased))
        return 0
    async with opened(settings) as stores:
        found = await collect(stores, rules_of(settings), dry_run=asked.dry_run)
    _tell(found, None if asked.json else told_round(found))
    return 1 if found.failure_count else 0


def _tell(report: Record, lines: Sequence[str] | None) -> None:
    text = report.model_dump_json(indent=2) if lines is None else "\n".join(lines)
    sys.stdout.write(f"{text}\n")


def told_round(found: Collected) -> list[str]:
    """Return the lines that say what a round removed."""
    lines = _table("would remove" if found.dry_run else "removed", found.removed)
    if found.failure_count:
        lines.append(f"{found.failure_count} could not be looked at or removed:")
        lines += [f"  {failure}" for failure in found.failures]
    return lines


def told_erasure(erasure: Erasure) -> list[str]:
    """Return the lines that say what was removed of a tenant, and what is left where."""
    end = erasure.end_time or erasure.begin_time
    nothing = not (erasure.removed or erasure.tombstones or erasure.routes)
    return [
        f"{erasure.tenant} {'had nothing' if nothing else 'is erased'}: "
        f"{end:%Y-%m-%d %H:%M:%S} UTC, tries: {erasure.tries}",
        *(["nothing was ever found of it here: is that its id?"] if nothing else []),
        *_table("removed" if erasure.tries == 1 else "removed in all tries", erasure.removed),
        f"kept: {erasure.tombstones} tombstones and {erasure.routes} routes to them, names alone: "
        "serving obeys them",
        "other disks: trainers and serving replicas delete what they keep of it at their next look",
        f"backups: whatever was copied before {end:%Y-%m-%d %H:%M:%S} UTC still holds it: those of "
        "the job store, earlier versions of objects in the bucket, snapshots of volumes, logs. "
        "After one is restored, erase the tenant again",
    ]


def _table(title: str, removed: Mapping[Kind, Count]) -> list[str]:
    if not removed:
        return [f"{title}: nothing"]
    rows = [(title, "count", "objects or rows", "size")]
    rows += [
        (kind.replace("_", " "), str(count.things), str(count.objects), _size(count.bytes))
        for kind, count in sorted(removed.items())
    ]
    first, *others = (max(len(row[at]) for row in rows) for at in range(len(rows[0])))
    return [
        row[0].ljust(first)
        + "".join(f"  {cell.rjust(width)}" for cell, width in zip(row[1:], others, strict=True))
        for row in rows
    ]


def _size(bytes_: float) -> str:
    for unit in _UNITS[:-1]:
        if bytes_ < 1024:
            return f"{bytes_:.0f} {unit}" if unit == _UNITS[0] else f"{bytes_:.1f} {unit}"
        bytes_ /= 1024
    return f"{bytes_:.1f} {_UNITS[-1]}"
