"""Versions on local disk: a folder each, and in it, written last, a record of what belongs there.

The folder's name, {tenant}.{adapter}.{version}.{number}, has parts without dots; no two folders of
one process life ever have the same, since the engine keys its caches on paths. The record is one
line of JSON with the SHA-256 of what follows it, the manifest: a record that was cut short by a
kill or a crash is told from a whole one, and the version serves without the store. The files are
checked again before their first use in a process, so nothing here is synced to disk.

All functions block.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from tailorbird.errors import DataCorrupt, InvalidArgument, ResourceExhausted, Unavailable
from tailorbird.local_disk import is_disk_full
from tailorbird.manifest import AdapterManifest
from tailorbird.names import VersionName

_log = structlog.get_logger(__name__)

RECORD = "record"

_FULL_RETRY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """A complete folder: its number, its size in bytes, and when the version was last used."""

    version: VersionName
    number: int
    path: Path
    size: int
    used: datetime


def has_versions(folder: Path) -> bool:
    """Tell whether an earlier process left a version under `folder`, read or not."""
    return any(folder.glob(f"*/{RECORD}"))


def folder_name(version: VersionName, number: int) -> str:
    """Return the name of the folder that holds `version`."""
    return f"{version.tenant}.{version.adapter}.{version.version}.{number}"


def encode_record(manifest: AdapterManifest) -> bytes:
    """Return the record's bytes."""
    body = manifest.to_json()
    head = {"version": manifest.version, "manifest_sha256": hashlib.sha256(body).hexdigest()}
    return json.dumps(head).encode() + b"\n" + body


def read_manifest(path: Path) -> AdapterManifest:
    """Return the manifest in the folder's record; DataCorrupt or OSError if it is not whole."""
    return AdapterManifest.from_json(_read_record(path)[1])


def scan(folder: Path) -> list[StoredVersion]:
    """Return the complete folders, least recently used first; delete everything else."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[VersionName, StoredVersion] = {}
    for path in folder.iterdir():
        stored = _stored(path)
        other = None if stored is None else found.get(stored.version)
        if stored is not None and (other is None or other.number < stored.number):
            found[stored.version] = stored
            stale = None if other is None else other.path
        else:
            stale = path
        if stale is not None:
            delete(stale)
    return sorted(found.values(), key=lambda stored: stored.used)


def delete(path: Path) -> None:
    """Delete a folder or a file; what cannot be deleted is logged and left to the next start."""
    try:
        # What a link leads to is not ours.
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
        else:
            # First: a folder that is half deleted is never taken for a complete one.
            (path / RECORD).unlink(missing_ok=True)
            shutil.rmtree(path)
    except OSError as error:
        if os.path.lexists(path):
            _log.warning("folder cannot be deleted", path=str(path), error=str(error))


def remember_use(path: Path, used: datetime) -> None:
    """Note in the folder's record when the version was last used, if the record is there."""
    with suppress(OSError):
        os.utime(path / RECORD, (used.timestamp(), used.timestamp()))


@contextmanager
def disk_errors() -> Iterator[None]:
    """Raise an OSError as ResourceExhausted (DISK_FULL) or Unavailable (LOCAL_DISK_FAILED)."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise ResourceExhausted(
                "the local disk is full", reason="DISK_FULL", retry_after=_FULL_RETRY_SECONDS
            ) from error
        raise Unavailable(
            f"the local disk failed: {error.strerror}", reason="LOCAL_DISK_FAILED"
        ) from error


def _stored(path: Path) -> StoredVersion | None:
    try:
        tenant, adapter, id_, number = path.name.split(".")
        version = VersionName.parse(f"tenants/{tenant}/adapters/{adapter}/versions/{id_}")
        if path.name != folder_name(version, int(number)) or path.is_symlink():
            return None
        if _read_record(path)[0] != str(version):
            return None
        size = sum(file.stat().st_size for file in path.iterdir())
        used = datetime.fromtimestamp((path / RECORD).stat().st_mtime, UTC)
    except (OSError, ValueError, OverflowError, DataCorrupt, InvalidArgument):
        return None
    return StoredVersion(version, int(number), path, size, used)


def _read_record(path: Path) -> tuple[str, bytes]:
    """Return the version's name and the manifest's bytes."""
    line, _, body = (path / RECORD).read_bytes().partition(b"\n")
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        head = json.loads(line)
        if head["manifest_sha256"] == hashlib.sha256(body).hexdigest():
            return str(head["version"]), body
    raise DataCorrupt(f"the record of {path.name} is not whole")
